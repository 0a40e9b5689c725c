"""Sparse attention: fixed patterns of pairs.

Child et al. 2019, "Generating Long Sequences with Sparse Transformers", arXiv:1904.10509, section 4, whose pattern is
"fixed"; "all", "local" and "strided" are those of the ConvNN repository
(github.com/mingikang31/Convolutional-Nearest-Neighbor-Attention), which compares with sparse attention.

    head_i = softmax over j in A_i of (q_i . k_j / sqrt(D)) v_j

    all        A_i = every j
    local      A_i = {j: |i - j| <= floor(l / 2)}
    strided    A_i = {j: l divides i - j}
    fixed      A_i = {j: floor(j / l) = floor(i / l)}  and  {j: j mod l >= l - c}

and, where causal, j <= i. The paper's l (stride) is our `context`, its c our `summary`; its strided pattern adds the
band of a local one, which is another head or layer's here.

Positions count from the beginning of a packed sequence, or from the first real token.

`as_published`: the released code drops weights in evaluation too. Its hidden scores are -1e9 and not -inf, which is the
same, since every token sees itself.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp

from jattn import core
from jattn.attention.base import Attention, Inputs
from jattn.attention.cost import ROTARY, Cost, projection
from jattn.attention.folding import ResidueClasses, Summaries, extents, of_queries
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Float, Tokens


class SparseAttention(Attention):
    """Dot-product attention to the pairs of a fixed pattern.

    mode: the pattern (see above). The source's default is "all", which is softmax attention.
    context: l: the window of "local" (an even one spans l + 1 keys, l / 2 on each side), the stride of "strided", the
      block of "fixed"; ignored by "all".
    summary: c, the last tokens of each block of "fixed" that all (later) blocks see; None = l / 16, at least 1.
    """

    lacks: ClassVar = {
        "context": "its patterns compare positions of query and key, and those of another sequence are not comparable"
    }

    mode: Literal["all", "local", "strided", "fixed"] = "local"
    context: int = 128
    summary: int | None = None

    def __post_init__(self):
        if self.mode not in MODES:
            raise UserError(f"mode {self.mode!r} is no pattern: choose from {', '.join(MODES)}")
        if self.context < 1:
            raise UserError(f"context is {self.context}: it must be at least 1")
        if self.summary is not None and not 1 <= self.summary <= self.context:
            raise UserError(
                f"summary is {self.summary}: it must lie between 1 and context {self.context}, the tokens of a block"
            )
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
        """Each token of x attends to tokens of x; see `jattn.attention.base` for the mask."""
        inputs = self.begin(x, mask, context)
        head_dim = self.head_size(x.shape[-1])
        q, k, v = (self.project(name, inputs.x, self.num_heads, head_dim) for name in ("query", "key", "value"))
        q, k = self.turned(inputs, q, k)
        reach = self.context // 2 if self.mode == "local" else None
        inputs, (k, v) = self.remember(inputs, reach=reach, key=k, value=v)
        if self.as_published and self.dropout_rate:
            deterministic = False
            if not (self.has_rng("dropout") or self.is_initializing()):
                raise UserError(
                    f"with as_published=True and dropout_rate {self.dropout_rate}, weights are dropped in evaluation "
                    "too, as in the released code: pass an rng 'dropout', or set dropout_rate=0"
                )
        q, k, pattern = self._pattern(inputs, q, k)
        out = self.attend(inputs, q, k, v, score=core.Dot(head_dim**-0.5), deterministic=deterministic, **pattern)
        return self.finish(inputs, out)

    @property
    def _by_summaries(self) -> Summaries:
        count = max(1, self.context // 16) if self.summary is None else self.summary
        return Summaries(self.context, count, self.causal)

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> Cost:
        """The cost of one forward pass of `batch` examples of T tokens (S is T: there is no cross-attention).

        All pairs of "local", of a residue class of "strided" and of both parts of "fixed" are counted, though blocks of
        keys out of reach are left out.
        """
        H, D = self.num_heads, self.head_size(width)
        options = {
            "batch": batch,
            "heads": H,
            "key_heads": H,
            "score": 2 * D + 1 + 3 * (self.mode == "fixed"),  # and its mask
            "features": (D, D),
            "values": D,
            "causal": self.causal or self.mode in ("local", "strided"),
            "dtype_bytes": dtype_bytes,
        }
        if self.mode == "fixed":
            total = self._by_summaries.cost(T, **options)
        else:
            total = ResidueClasses(self.context if self.mode == "strided" else 1).cost(T, **options)
        for inputs, outputs in 3 * [(width, H * D)] + [(H * D, width)]:
            total += projection(batch * T, inputs, outputs, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        return total + Cost(0, 2 * batch * H * T * D * ROTARY * self.rotary, 0)

    def _pattern(self, inputs: Inputs, q: Tokens, k: Array) -> tuple[Tokens, Tokens, dict[str, Any]]:
        """q and k with what the pattern reads, and bias, mask and how of the call."""
        size = self.context
        if self.mode == "local":
            return q, k, {"bias": core.Window(size // 2, size // 2)}
        if self.mode == "strided":
            return q, k, {"bias": core.Strided(size), "how": ResidueClasses(size)}
        if self.mode == "all":
            return q, k, {}
        first, _ = extents(inputs, k.shape[2])
        places = jnp.arange(k.shape[2])[None] - first
        block = first + places // size  # another number in every block of every packed sequence, and ascending
        summary = (places >= 0) & (places % size >= size - self._by_summaries.count)
        q = {"features": q, "block": of_queries(inputs, block)[:, None]}
        k = {"features": k, "block": block[:, None], "summary": summary[:, None]}
        return q, k, {"mask": core.Blocks(size, self.causal), "how": self._by_summaries}


MODES = ("all", "local", "strided", "fixed")
