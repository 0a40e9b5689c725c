"""Local attention.

Windowed attention with rotary positions as in https://github.com/lucidrains/local-attention (after Beltagy et al. 2020,
"Longformer", arXiv:2004.05150, and Roy et al. 2020, arXiv:2003.05997), which ConvNN's repository compares with
(https://github.com/mingikang31/Convolutional-Nearest-Neighbor-Attention, `layers.py`).

    y_t = sum_s softmax_s(scale <R_t q_t, R_s k_s>) v_s       over s with -w forward <= t - s <= w backward

w is `window_size`, backward and forward are `look_backward` and `look_forward`, R_t turns by rotary angles of t, and
with xPos makes features decay with t - s (see `jattn.core.windows.XPos`). With `exact_windowsize=False` the window is
made of whole blocks instead: s lies in the block of t, floor(t / w), or in so many blocks before or after it. Exact or
not, only what is in the window is ever computed.

`as_published`, where not causal: rotary and xPos treat queries as if they stood w forward further on, so that every
relative angle is off; without a mask, zero keys with zero values fill up the last block, and are attended to. Causal
or not, a query whose keys are all masked gets the mean of the values in its blocks, zeros beyond the last token up to
the end of its block, and -1 past the sequence's ends.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers

from jattn import core
from jattn.attention import cost
from jattn.attention.base import Attention, Inputs
from jattn.attention.folding import extents, of_queries
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Float, Int

_UNIT = 4  # per feature: square, sum, division, scaling
_LAYER_NORM = 7  # per feature: two sums, difference, square, two scalings, shift


class LocalAttention(Attention):
    """Multi-head attention to the tokens in a window around each token.

    window_size: w, tokens.
    look_backward: how many times w tokens, or how many blocks of w, the window reaches back.
    look_forward: the same forwards; None = 0 if causal, else 1.
    exact_windowsize: the window reaches exactly so far; otherwise it consists of whole blocks.
    rotary: as for all mechanisms, but on unless turned off.
    use_xpos: products of features decay with the lag.
    xpos_scale_base: over so many tokens, to the power of the features' rates; None = w // 2, at least 1.
    qk_rmsnorm: queries and keys have length 1 before a learned scale of their features, shared by the heads.
    qk_scale: of the scores where `qk_rmsnorm`; otherwise it is D ** -0.5.
    gate_values_per_head: each head's output is multiplied by sigmoid(w_h . x_t + b_h).
    prenorm: layer norm of x before all else.
    attention_bias: a learned bias for each head and lag, zero at first.
    """

    window_size: int = 128
    look_backward: int = 1
    look_forward: int | None = None
    exact_windowsize: bool = True
    rotary: bool = True
    use_xpos: bool = False
    xpos_scale_base: int | None = None
    qk_rmsnorm: bool = False
    qk_scale: float | int = 8
    gate_values_per_head: bool = False
    prenorm: bool = False
    attention_bias: bool = False

    def __post_init__(self):
        if self.window_size < 1:
            raise UserError(f"window_size is {self.window_size}: it must be at least 1")
        if self.look_backward < 0 or self.forward < 0:
            raise UserError(
                f"look_backward is {self.look_backward} and look_forward {self.forward}: neither can be negative"
            )
        if self.causal and self.forward:
            raise UserError(
                f"look_forward={self.look_forward} sees later tokens, which causal=True forbids: leave it out, or 0"
            )
        least = max(1, core.XPos.smallest_base(max(self._lags) + self._shift))
        if self.use_xpos and self.scale_base < least:
            raise UserError(
                f"xpos_scale_base {self.scale_base} is too small for windows of up to {max(self._lags)} tokens, over "
                f"which decays would leave the range of float32: it must be at least {least}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*B T C"],
        mask: AttentionMask | None = None,
        *,
        context: Float[Array, "*B S X"] | None = None,
        attn_bias: Float[Array, "H w L"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*B T C"]:
        """Each token of x attends to the tokens of x, or of the context, in its window.

        See `jattn.attention.base` for the mask. Positions of a context are counted from 0, as those of x are.
        attn_bias: added to the score of the query in slot i of its block and the key in slot j of the
          L / w = look_backward + 1 + look_forward blocks that it sees.
        """
        inputs = self.begin(x, mask, context)
        if self.prenorm:
            normed = self._layer_norm()(inputs.x)
            inputs = inputs._replace(x=normed, context=normed if context is None else inputs.context)
        head_dim = self.head_size(x.shape[-1])
        q = self.project("query", inputs.x, self.num_heads, head_dim)
        k = self.project("key", inputs.context, self.num_heads, head_dim)
        v = self.project("value", inputs.context, self.num_heads, head_dim)
        if self.qk_rmsnorm:
            q, k = self._unit("query_scale", q), self._unit("key_scale", k)
        q, k = *self.turned(inputs._replace(offset=inputs.offset + self._shift), q), *self.turned(inputs, k)
        # Windows of whole blocks count blocks from the first token, and released code looks at what it hides.
        forgets = self.exact_windowsize and attn_bias is None and not self.as_published
        inputs, (k, v) = self.remember(inputs, reach=self._lags[1] if forgets else None, key=k, value=v)
        if self.as_published and not self.causal and mask is None:
            missing = -k.shape[2] % self.window_size
            k, v = (jnp.pad(tokens, ((0, 0), (0, 0), (0, missing), (0, 0))) for tokens in (k, v))

        scale = float(self.qk_scale) if self.qk_rmsnorm else head_dim**-0.5
        score = core.Dot(scale)
        if self.use_xpos:
            score = core.XPos(scale, self.scale_base, max(self._lags), self._shift)
        if attn_bias is not None:
            score = core.BySlot(score, self._checked(attn_bias), self.look_backward)
        if attn_bias is not None or not self.exact_windowsize:
            of_queries, of_keys = self._places(inputs, k.shape[2])
            q, k = {"features": q, "place": of_queries}, {"features": k, "place": of_keys}
        out = self.attend(inputs, q, k, v, score=score, **self._window(), deterministic=deterministic)
        if self.as_published and inputs.key_mask is not None:
            out = self._or_mean(inputs, out, v)
        if self.gate_values_per_head:
            gate = jax.nn.sigmoid(self._gate()(inputs.x))
            out = out * jnp.moveaxis(gate, -1, 1)[..., None]
        return self.finish(inputs, out)

    @property
    def forward(self) -> int:
        """`look_forward`, or its default."""
        return (0 if self.causal else 1) if self.look_forward is None else self.look_forward

    @property
    def scale_base(self) -> int:
        """`xpos_scale_base`, or its default."""
        return max(1, self.window_size // 2) if self.xpos_scale_base is None else self.xpos_scale_base

    @property
    def _shift(self) -> int:
        """How far from where they stand rotary positions take queries to be."""
        return self.window_size * self.forward if self.as_published else 0

    @property
    def _lags(self) -> tuple[int, int]:
        """How far the window reaches forwards, and backwards."""
        more = 0 if self.exact_windowsize else self.window_size - 1
        ahead = self.window_size * self.forward + (0 if self.causal else more)
        return ahead, self.window_size * self.look_backward + more

    def _window(self) -> dict[str, Any]:
        """Bias and mask that make the window."""
        ahead, back = self._lags
        mask = None
        if not self.exact_windowsize:
            mask = core.NearBlocks(self.window_size, self.look_backward, self.forward)
        if not self.attention_bias:
            return {"bias": core.Window(back, ahead), "mask": mask}
        init = nn.with_logical_partitioning(initializers.zeros, ("heads", "length"))
        return {
            "bias": core.ByLag(self.param("attention_bias", init, (self.num_heads, ahead + 1 + back)), -ahead),
            "mask": mask,
        }

    def _places(self, inputs: Inputs, keys: int) -> tuple[Int[Array, "b 1 T"], Int[Array, "b 1 S"]]:
        """Places of queries and of keys in their sequence, from which blocks are counted."""
        places = jnp.arange(keys)[None]
        if inputs.key_mask is not None and inputs.key_mask.dtype != jnp.bool_:
            places = places - extents(inputs, keys)[0]
            return of_queries(inputs, places)[:, None], places[:, None]
        return (inputs.offset + jnp.arange(inputs.x.shape[1]))[None, None], places[:, None]

    def _or_mean(self, inputs: Inputs, out: Float[Array, "B H T D"], v: Float[Array, "B H S D"]) -> Array:
        """`out`, but for queries whose keys are all masked the mean of what lies in the blocks that they see."""
        size, keys = self.window_size, v.shape[2]
        t = inputs.offset + jnp.arange(out.shape[2])
        if self.exact_windowsize:
            first, last = t - size * self.look_backward, t + size * self.forward
        else:
            first, last = (t // size - self.look_backward) * size, (t // size + 1 + self.forward) * size - 1
        last = jnp.clip(t if self.causal else last, 0, keys - 1)
        real = jnp.pad(jnp.cumsum(inputs.key_mask != 0, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
        some = real[:, last + 1] > real[:, jnp.clip(first, 0, keys)]

        blocks = jnp.pad(v, ((0, 0), (0, 0), (0, -keys % size), (0, 0)))
        sums = blocks.reshape(*v.shape[:2], -1, size, v.shape[3]).sum(3)
        around = ((0, 0), (0, 0), (self.look_backward, self.forward), (0, 0))
        sums = jnp.pad(sums, around, constant_values=-size)
        seen = range(self.look_backward + 1 + self.forward)
        mean = sum(sums[:, :, i : i - seen[-1] or None] for i in seen) / (len(seen) * size)
        return jnp.where(some[:, None, :, None], out, mean[:, :, t // size].astype(out.dtype))

    def _checked(self, attn_bias: Array) -> Array:
        shape = (self.num_heads, self.window_size, self.window_size * (self.look_backward + 1 + self.forward))
        if attn_bias.shape != shape:
            raise UserError(
                f"attn_bias has shape {attn_bias.shape}, it must be {shape}: heads, slots of a block, slots of the "
                "blocks that it sees"
            )
        return attn_bias

    def _unit(self, name: str, x: Float[Array, "B H T D"]) -> Float[Array, "B H T D"]:
        """Vectors of length 1, their features scaled by the parameter of this name."""
        init = nn.with_logical_partitioning(initializers.ones, ("head_dim",))
        scale = self.param(name, init, x.shape[3:])
        precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        length = jnp.sqrt(jnp.maximum(jnp.sum(precise**2, -1, keepdims=True), 1e-24))
        return (precise / length * scale[None, None, None]).astype(x.dtype)

    def _layer_norm(self) -> nn.LayerNorm:
        one, zero = (nn.with_logical_partitioning(init, ("embed",)) for init in (initializers.ones, initializers.zeros))
        options = {"epsilon": 1e-5, "use_fast_variance": False, "dtype": self.dtype}
        return nn.LayerNorm(scale_init=one, bias_init=zero, name="norm", **options)

    def _gate(self) -> nn.Dense:
        kernel = nn.with_logical_partitioning(initializers.lecun_normal(), ("embed", "heads"))
        bias = nn.with_logical_partitioning(initializers.zeros, ("heads",))
        return nn.Dense(self.num_heads, dtype=self.dtype, kernel_init=kernel, bias_init=bias, name="gate")

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens attending to S (None = T, to themselves).

        Of every pair, as the dense path computes them; `blockwise` leaves out blocks beyond the window.
        """
        S = T if S is None else S
        H, D = self.num_heads, self.head_size(width)
        total = cost.attention(
            T,
            S,
            batch=batch,
            heads=H,
            key_heads=H,
            score=2 * D + 1 - self.use_xpos + 3 * (not self.causal) + 3 * (not self.exact_windowsize),
            features=(D, D),
            values=D,
            causal=self.causal,
            dtype_bytes=dtype_bytes,
        )
        for tokens, inputs, outputs in ((T, width, H * D), (S, width, H * D), (S, width, H * D), (T, H * D, width)):
            total += cost.projection(batch * tokens, inputs, outputs, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        if self.gate_values_per_head:
            total += cost.projection(batch * T, width, H, use_bias=True, dtype_bytes=dtype_bytes)
            total += cost.Cost(0, batch * T * H * D, 0)
        lags = sum(self._lags) + 1
        params = H * lags * self.attention_bias + 2 * D * self.qk_rmsnorm + 2 * width * self.prenorm
        per_feature = cost.ROTARY * self.rotary + _UNIT * self.qk_rmsnorm
        flops = batch * (H * (T + S) * D * per_feature + T * width * _LAYER_NORM * self.prenorm)
        if self.use_xpos:
            flops += batch * H * D * (2 * T + core.XPos.chunks(T, self.scale_base) * S)
        return total + cost.Cost(params, flops, dtype_bytes * params)
