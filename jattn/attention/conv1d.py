"""A convolution over tokens in the place of attention.

The baseline of Kang et al. 2025, "Attention Via Convolutional Nearest Neighbors", arXiv:2511.14137, as their
repository has it (`MultiHeadConv1dAttention`, github.com/mingikang31/Convolutional-Nearest-Neighbor-Attention).

    V_h = X W^X_h + b^X_h                                              heads of D features
    Z_h[t] = b + sum_{i < k} V_h[t + i - l] K_i,     l = (k - 1) // 2        tokens outside of the sequence are zero
    Y = [Z_1 ... Z_H] W^O + b^O

The kernel K, k taps of D x D, and its bias b are shared by all heads. The causal form takes l = k - 1: the tokens
t - k + 1 .. t. The repository's d_hidden, d_k and W_x are our C, D and the projection "value".

`as_published=True` merges heads as the released code does: it reads the T x D numbers of each head, row by row, as
a D x T matrix, and takes that one's transpose, which mixes tokens (and has no causal form). The default merges heads
as they were split.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.nn import initializers

from jattn.attention import cost
from jattn.attention.base import Attention, Inputs
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Bool, DTypeLike, Float, Int


class Conv1dAttention(Attention):
    """Multi-head convolution over tokens. Dropout acts on its output, there being no weights of pairs to drop.

    kernel_size: k, the tokens that an output is made of; with an even k one more after it than before it.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "context": "a convolution runs over the order of its own tokens",
        "implementations": "a convolution is no softmax over pairs",
        "probabilities": "its weights are the norms of its kernel at each lag",
        "energies": "no pair of tokens is scored",
        "rotary": "there are no queries and keys to turn",
    }

    kernel_size: int = 9

    def __post_init__(self):
        if self.kernel_size < 1:
            raise UserError(f"kernel_size is {self.kernel_size}: a convolution needs at least 1 token")
        if self.as_published and self.causal:
            raise UserError(
                "as_published=True has no causal form: the released merge of heads mixes all tokens; "
                "use as_published=False with causal=True"
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
        """The convolution of x; taps on tokens that the mask hides (see `jattn.attention.base`) count zero."""
        inputs = self.begin(x, mask, context)
        head_dim = self.head_size(x.shape[-1])
        values = self.project("value", inputs.x, self.num_heads, head_dim)
        inputs, (values,) = self.remember(inputs, value=values)
        if inputs.key_mask is not None:
            values = jnp.where(inputs.key_mask[:, None, :, None] != 0, values, 0.0)
        queries, before = x.shape[-2], self._before()
        padding = ((0, 0), (0, 0), (before, self.kernel_size - 1 - before), (0, 0))
        reached = jax.lax.dynamic_slice_in_dim(
            jnp.pad(values, padding), inputs.offset, queries + self.kernel_size - 1, axis=2
        )
        convolution = Convolution(self.kernel_size, head_dim, self.use_bias, self.dtype, name="conv")
        out = convolution(reached, self._allowed_taps(inputs, values.shape[2]))
        out = nn.Dropout(self.dropout_rate)(out, deterministic=deterministic)
        self._report(inputs, convolution.norms(), values.shape[2])
        if self.as_published:
            out = out.reshape(*out.shape[:2], head_dim, queries).swapaxes(2, 3)
        return self.finish(inputs, out)

    def _before(self) -> int:
        """l, the taps before the query's own token."""
        return self.kernel_size - 1 if self.causal else (self.kernel_size - 1) // 2

    def _allowed_taps(self, inputs: Inputs, keys: int) -> Bool[Array, "B h T k"] | None:
        """Which tap of which query counts, where that is not the same for all queries; None = all do."""
        segments = inputs.key_mask is not None and inputs.key_mask.dtype != jnp.bool_
        if not segments and inputs.pair_mask is None:
            return None
        positions = inputs.offset + jnp.arange(inputs.x.shape[1])
        # Taps outside of the sequence meet zeros, so that it does not matter whose mask they get.
        taken = positions[:, None] + jnp.arange(self.kernel_size)[None] - self._before()
        return _allowed(inputs, jnp.clip(taken, 0, keys - 1))

    def _report(self, inputs: Inputs, norms: Float[Array, " k"], keys: int) -> None:
        """Sows `weights` into "intermediates" (where it is mutable): the norm of the kernel at each pair's lag."""
        if self.is_initializing() or not self.is_mutable_collection("intermediates"):
            return
        positions = inputs.offset + jnp.arange(inputs.x.shape[1])
        tap = jnp.arange(keys)[None] - positions[:, None] + self._before()
        reached = (tap >= 0) & (tap < self.kernel_size)
        weights = jnp.where(reached, norms[jnp.clip(tap, 0, self.kernel_size - 1)], 0.0)[None, None]
        pairs = jnp.broadcast_to(jnp.arange(keys)[None], tap.shape)
        weights = jnp.where(_allowed(inputs, pairs), weights, 0.0)
        weights = jnp.broadcast_to(weights, (inputs.x.shape[0], self.num_heads, *tap.shape))
        self.sow("intermediates", "weights", weights.reshape(*inputs.batch, *weights.shape[1:]))

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens; S can only be T."""
        H, D, k = self.num_heads, self.head_size(width), self.kernel_size
        params = D * (k * D + self.use_bias)
        flops = batch * T * H * D * (2 * k * D + self.use_bias)
        total = cost.Cost(params, flops, dtype_bytes * (params + batch * T * H * 2 * D))
        for inputs, outputs in ((width, H * D), (H * D, width)):
            total += cost.projection(batch * T, inputs, outputs, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        return total


class Convolution(nn.Module):
    """k taps of D x D features over tokens, the same for all heads: kernel (k, D, D), bias (D)."""

    kernel_size: int
    features: int
    use_bias: bool = True
    dtype: DTypeLike | None = None

    def setup(self):
        """Declares the parameters."""
        names, shape = (None, "head_dim", "head_dim"), (self.kernel_size, self.features, self.features)
        self.kernel = self.param("kernel", nn.with_logical_partitioning(initializers.lecun_normal(), names), shape)
        if self.use_bias:
            init = nn.with_logical_partitioning(initializers.zeros, names[2:])
            self.bias = self.param("bias", init, shape[2:])

    def __call__(self, x: Float[Array, "B H R D"], allowed: Bool[Array, "B h T k"] | None) -> Float[Array, "B H T D"]:
        """The outputs whose k = R - T + 1 taps all lie in x; taps that are not allowed count zero."""
        x, kernel, bias = promote_dtype(x, self.kernel, self.bias if self.use_bias else None, dtype=self.dtype)
        if allowed is None:
            y = jax.lax.conv_general_dilated(
                x, kernel[None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )  # the heads are rows of a picture of which the kernel sees one
        else:
            taps = (
                jnp.where(allowed[..., i, None], x[:, :, i : i + allowed.shape[2]], 0.0)
                for i in range(self.kernel_size)
            )
            y = sum(jnp.einsum("bhtd,de->bhte", tap, kernel[i]) for i, tap in enumerate(taps))
        return y if bias is None else y + bias[None, None, None]

    def norms(self) -> Float[Array, " k"]:
        """The Frobenius norm of each tap."""
        return jnp.sqrt(jnp.sum(jnp.square(self.kernel), axis=(1, 2)))


def _allowed(inputs: Inputs, keys: Int[Array, "T n"]) -> Bool[Array, "B h T n"]:
    """Whether the call's mask lets each query see these keys of its own."""
    allowed = jnp.ones((1, 1, *keys.shape), bool)
    if inputs.key_mask is not None:
        chosen = inputs.key_mask[:, keys]
        allowed = (chosen != 0)[:, None]
        if chosen.dtype != jnp.bool_:
            allowed &= (chosen == inputs.query_mask[:, :, None])[:, None]
    if inputs.pair_mask is not None:
        pairs = inputs.pair_mask
        indices = jnp.broadcast_to(keys[None, None], (*pairs.shape[:2], *keys.shape))
        allowed &= jnp.take_along_axis(pairs, indices, axis=-1)
    return allowed
