"""Branching: part of the channels through ConvNN attention, the others through a convolution or softmax attention.

Kang et al. 2025, "Attention Via Convolutional Nearest Neighbors", arXiv:2511.14137; released code:
github.com/mingikang31/Convolutional-Nearest-Neighbor-Attention (`MultiHeadBranchingConv`,
`MultiHeadBranchingAttention`).

    Y = [ConvNN(X[:, :c]) ; Other(X[:, c:])] W + b,        c = floor(branch_ratio C)

Each branch is a whole mechanism with projections of its own, on its channels only; W, b is the "pointwise" layer. With
a ratio of 0 or 1 there is one branch, and the pointwise layer. The source's d_hidden is our C.

`as_published=True` computes what the released code does, which differs besides what its branches do
(see `jattn.attention.convnn`, `jattn.attention.conv1d`) in that
  - `branching_conv` leaves out the pointwise layer at ratio 0 and 1, though it has the parameters;
  - `branching_attention` crashes there;
  - the projections of ConvNN and of softmax attention have no biases.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers

from jattn.attention import cost
from jattn.attention.base import Attention, divisors
from jattn.attention.conv1d import Conv1dAttention
from jattn.attention.convnn import ConvNNAttention
from jattn.attention.softmax import SoftmaxAttention
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Float


class Branching(ConvNNAttention):
    """What both have in common. All options of both branches are options; `num_heads` holds for both.

    The weights are the mean of the branches' in proportion to their channels (each branch's own are sown under its
    name), the energy is the mean over the branches that score pairs.

    branch_ratio: share of the channels that ConvNN gets, from 0 to 1, rounded down.
    """

    keeps: ClassVar[frozenset[str]] = frozenset()
    other: ClassVar[tuple[str, type[Attention]]]
    """Name and class of the branch beside ConvNN."""

    branch_ratio: float | int = 0.5

    def __post_init__(self):
        if not 0 <= self.branch_ratio <= 1:
            raise UserError(f"branch_ratio is {self.branch_ratio}: it is a share of the channels, from 0 to 1")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*B T C"],
        mask: AttentionMask | None = None,
        *,
        context: Float[Array, "*B S X"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*B T C"]:
        """Both branches on their channels of x, and of the context; see `jattn.attention.base` for the mask."""
        self.begin(x, mask, context)
        width, parts = x.shape[-1], []
        branches = self._branches(width)
        for name, (branch, channels) in branches.items():
            of_context = None if context is None else context[..., self._of_context(channels, width, context.shape[-1])]
            # Random candidates of evaluation follow from this module's name: `weights` reads a copy of it.
            module = branch(name=name, **({"sampling_seed": self._evaluation_seed} if name == "convnn" else {}))
            parts.append(module(x[..., channels], mask, context=of_context, deterministic=deterministic))
        if self.is_mutable_collection("intermediates") and not self.is_initializing():
            sown = self.variables["intermediates"]
            of_branches = ((sown[name]["weights"][-1], _size(channels)) for name, (_, channels) in branches.items())
            self.sow("intermediates", "weights", sum(weights * (size / width) for weights, size in of_branches))
        y = jnp.concatenate(parts, axis=-1)
        pointwise = nn.Dense(
            width,
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=nn.with_logical_partitioning(initializers.lecun_normal(), ("embed", "embed")),
            bias_init=nn.with_logical_partitioning(initializers.zeros, ("embed",)),
            name="pointwise",
        )
        mixed = pointwise(y)
        return y if self.as_published and self.branch_ratio in (0, 1) else mixed

    def sow(self, col: str, name: str, value: Any, **options: Any) -> bool:
        """As linen's, but of the two branches' energies, which arrive here (see `Attention.sow_report`), the mean."""
        if col == "energies":
            options |= {"init_fn": tuple, "reduce_fn": lambda sown, new: ((sown[0] + new) / 2,) if sown else (new,)}
        return super().sow(col, name, value, **options)

    @nn.nowrap
    def _branches(self, width: int) -> dict[str, tuple[Callable[..., Attention], slice]]:
        """Constructor and channels of each branch that has any, by name."""
        of_convnn = int(self.branch_ratio * width)
        name, kind = self.other
        common = math.gcd(of_convnn, width - of_convnn)
        if self.head_dim is None and common % self.num_heads:
            raise UserError(
                f"branch_ratio {self.branch_ratio} gives ConvNN {of_convnn} and {name} {width - of_convnn} of {width} "
                f"channels, which num_heads {self.num_heads} does not divide: choose num_heads from "
                f"{', '.join(map(str, divisors(common)))}, another branch_ratio, or set head_dim"
            )
        parts = {"convnn": (ConvNNAttention, slice(0, of_convnn)), name: (kind, slice(of_convnn, width))}
        return {name: (self._constructor(kind), part) for name, (kind, part) in parts.items() if _size(part)}

    @nn.nowrap
    def _constructor(self, kind: type[Attention]) -> Callable[..., Attention]:
        """What makes a branch, given its name or parent: this module's options are the branch's."""
        own = {field.name for field in dataclasses.fields(kind)} - {"name", "parent"}
        fields = {name: getattr(self, name) for name in own}
        if "implementations" in kind.lacks:
            fields["implementation"] = None
        if "rotary" in kind.lacks:
            fields["rotary"] = False
        if self.as_published and kind is not Conv1dAttention:
            fields["use_bias"] = False
        return functools.partial(kind, **fields)

    @nn.nowrap
    def _of_context(self, channels: slice, width: int, context_width: int) -> slice:
        """A branch's channels of a context, which may have another width."""
        if channels == slice(0, width):
            return slice(0, context_width)
        split = min(max(int(self.branch_ratio * context_width), 1), context_width - 1)
        return slice(0, split) if channels.start == 0 else slice(split, context_width)

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens, and S of a context as wide (None = itself)."""
        total = cost.projection(batch * T, width, width, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        if self.as_published and self.branch_ratio in (0, 1):
            total = cost.Cost(total.params, 0, 0)
        for branch, channels in self._branches(width).values():
            module = branch(parent=None)
            total += module.cost(T, S, width=_size(channels), batch=batch, dtype_bytes=dtype_bytes)
        return total


class BranchingConvAttention(Branching, Conv1dAttention):
    """ConvNN attention beside a convolution over tokens. `rotary` is that of ConvNN."""

    lacks: ClassVar[Mapping[str, str]] = {
        "context": Conv1dAttention.lacks["context"],
        "implementations": "neither ConvNN nor a convolution is a softmax over all pairs",
        "probabilities": "its weights are those of ConvNN and the norms of a kernel",
    }
    other = ("conv1d", Conv1dAttention)


class BranchingAttention(Branching, SoftmaxAttention):
    """ConvNN attention beside softmax attention. `implementation` is that of softmax attention."""

    lacks: ClassVar[Mapping[str, str]] = {"probabilities": ConvNNAttention.lacks["probabilities"]}
    other = ("attention", SoftmaxAttention)

    def __post_init__(self):
        if self.as_published and self.branch_ratio in (0, 1):
            raise UserError(
                f"the released branching attention crashes at branch_ratio {self.branch_ratio}: "
                "it looks for the branch that it did not build; set as_published=False"
            )
        super().__post_init__()


def _size(channels: slice) -> int:
    return channels.stop - channels.start
