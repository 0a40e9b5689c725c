"""Neighborhood attention over a sequence.

Hassani et al. 2023, "Neighborhood Attention Transformer", arXiv:2204.07143, section 3, in one dimension; dilated,
Hassani & Shi 2022, arXiv:2209.15001; causal as in NATTEN (github.com/SHI-Labs/NATTEN).

    head_i = softmax over j in N_i of (s q_i . k_j) v_j          i = d p + c,  j = d r + c,  c = i mod d

    N_i: start <= r < start + K        start = clamp(p - floor(K / 2), 0, L_c - K)        not causal
    N_i: p - K < r <= p                                                                   causal

The tokens of one residue class c of the dilation d are a sequence of L_c tokens. K keys are a query's neighbourhood:
centred on it, and shifted where it would cross a border, so that a query near a border has K keys too. A causal one is
cut at the beginning instead, since its keys may only be past ones. Where K exceeds L_c, all keys of the class are used.
The papers' k and delta, NATTEN's `kernel_size` and `dilation`, are K and d.

Borders are those of the sequence: of each packed one, and between first and last real token where there is padding, so
that outputs do not depend on how much padding follows. A hidden token in between keeps its place and is left out.

`as_published`: NATTEN refuses sequences shorter than K d.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from jattn import core
from jattn.attention.base import Attention, Inputs
from jattn.attention.cost import ROTARY, Cost, projection
from jattn.attention.folding import ResidueClasses, extents
from jattn.attention.projections import ToHeads
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Float, Int


class NeighborhoodAttention(Attention):
    """Dot-product attention of each token to its nearest tokens.

    kernel_size: K, keys of a query, itself among them; odd.
    dilation: d, the distance between neighbouring keys of a window.
    qkv_bias: the projections of queries, keys and values have biases; None = `use_bias`, which is also the output's.
    qk_scale: s, of the scores; None = D ** -0.5.
    """

    lacks: ClassVar = {
        "context": "neighbourhoods compare positions of query and key, and those of another sequence are not comparable"
    }

    kernel_size: int = 7
    dilation: int = 1
    qkv_bias: bool | None = None
    qk_scale: float | int | None = None

    def __post_init__(self):
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise UserError(
                f"kernel_size is {self.kernel_size}: it must be odd and at least 1, so that the query is in the middle"
            )
        if self.dilation < 1:
            raise UserError(f"dilation is {self.dilation}: it must be at least 1, which is none")
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
        """Each token of x attends to its neighbours in x; see `jattn.attention.base` for the mask."""
        inputs = self.begin(x, mask, context)
        head_dim = self.head_size(x.shape[-1])
        q, k, v = (
            ToHeads(self.num_heads, head_dim, self.has_qkv_bias, self.dtype, name=name)(inputs.x)
            for name in ("query", "key", "value")
        )
        q, k = self.turned(inputs, q, k)
        extent = (self.kernel_size - 1) * self.dilation
        inputs, (k, v) = self.remember(inputs, reach=None if self.as_published else extent, key=k, value=v)
        if self.as_published and self.kernel_size * self.dilation > k.shape[2]:
            raise UserError(
                f"kernel_size {self.kernel_size} times dilation {self.dilation} exceeds the {k.shape[2]} tokens: "
                "NATTEN refuses that; lower one of them, or use as_published=False, which uses all keys there are"
            )
        bias, shifted = None, None
        if self.causal:
            bias = core.Window(extent, 0)
        else:
            q = {"features": q, "left": self._left(inputs)[:, None]}
            shifted = core.Shifted(extent + 1)
        how = core
        if self.dilation > 1:
            bias = core.Strided(self.dilation) if bias is None else bias + core.Strided(self.dilation)
            how = ResidueClasses(self.dilation)
        scale = head_dim**-0.5 if self.qk_scale is None else float(self.qk_scale)
        out = self.attend(
            inputs, q, k, v, score=core.Dot(scale), bias=bias, mask=shifted, how=how, deterministic=deterministic
        )
        return self.finish(inputs, out)

    @property
    def has_qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.use_bias if self.qkv_bias is None else self.qkv_bias

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> Cost:
        """The cost of one forward pass of `batch` examples of T tokens (S is T: there is no cross-attention).

        All pairs of a residue class are counted, though blocks of keys out of reach are left out.
        """
        H, D = self.num_heads, self.head_size(width)
        options = {
            "batch": batch,
            "heads": H,
            "key_heads": H,
            "score": 2 * D + 1 + 3 * (not self.causal),  # and the mask
            "features": (D, D),
            "values": D,
            "causal": self.causal or self.dilation > 1,
            "dtype_bytes": dtype_bytes,
        }
        total = ResidueClasses(self.dilation).cost(T, **options)
        for inputs, outputs, use_bias in 3 * [(width, H * D, self.has_qkv_bias)] + [(H * D, width, self.use_bias)]:
            total += projection(batch * T, inputs, outputs, use_bias=use_bias, dtype_bytes=dtype_bytes)
        return total + Cost(0, 2 * batch * H * T * D * ROTARY * self.rotary, 0)

    def _left(self, inputs: Inputs) -> Int[Array, "b T"]:
        """How many tokens before the query its window begins."""
        keys, (first, last) = self.kernel_size, extents(inputs, inputs.x.shape[1])
        positions = jnp.arange(inputs.x.shape[1])[None]
        before, after = (positions - first) // self.dilation, (last - positions) // self.dilation  # of its class
        left = jnp.minimum(jnp.maximum(keys // 2, keys - 1 - after), before)
        return self.dilation * jnp.clip(left, 0, keys - 1)  # outside of its sequence a token has some window
