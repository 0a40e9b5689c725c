"""The block that every model repeats: attention, then an mlp, each in a residual branch."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn.attention.mechanism import Mechanism
from jattn.core import stored
from jattn.models.dropout import Dropout
from jattn.models.layers import Mlp, layer_norm
from jattn.types import Array, AttentionMask, DTypeLike, Float

NORM_POSITIONS = ("pre", "post")

REMAT = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse"),
}
"""What `remat` keeps of a block for the backward pass; everything else is recomputed. "none" keeps all."""


class Block(nn.Module):
    """Pre-norm: x + f(norm x), twice. Post-norm: norm(x + f x), twice. f is attention, then the mlp.

    Dropout acts on the output of each f, and where it is asked for on the mlp's hidden features. The mechanism's module
    is called `attention`.
    """

    mechanism: Mechanism
    num_heads: int
    mlp_dim: int
    activation: str = "gelu"
    norm_position: str = "pre"
    norm_epsilon: float | int = 1e-6
    norm_bias: bool = True
    use_bias: bool = True
    causal: bool = False
    dropout_rate: float | int = 0.0
    attention_dropout_rate: float | int = 0.0
    mlp_dropout_rate: float | int = 0.0
    dtype: DTypeLike = jnp.float32
    implementation: str | None = None
    decode: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T C"],
        mask: AttentionMask | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B T C"]:
        """mask: of tokens or of pairs, see `jattn.attention.base`; None = all are real."""
        attention = self.attention_module(name="attention")
        mlp = Mlp(self.mlp_dim, self.activation, self.use_bias, self.dtype, self.mlp_dropout_rate, name="mlp")
        norm = functools.partial(layer_norm, epsilon=self.norm_epsilon, use_bias=self.norm_bias, dtype=self.dtype)
        norm_attention, norm_mlp = norm(name="norm_attention"), norm(name="norm_mlp")
        dropout = functools.partial(Dropout(self.dropout_rate), deterministic=deterministic)

        def attend(x: Array) -> Array:
            return dropout(attention(x, mask, deterministic=deterministic))

        def transform(x: Array) -> Array:
            return dropout(mlp(x, deterministic))

        # Gradients of the residual stream are sums over all later blocks: not to be summed again in each.
        if self.norm_position == "pre":
            x = stored(x + attend(norm_attention(x)))
            return stored(x + transform(norm_mlp(x)))
        x = norm_attention(stored(x + attend(x)))
        return norm_mlp(stored(x + transform(x)))

    @nn.nowrap
    def attention_module(self, **linen: Any) -> nn.Module:
        """The mechanism's module with this block's options; `linen` is its name or parent.

        A mechanism that knows one way only, such as a convolution, is not asked for an implementation.
        """
        return self.mechanism.module(
            num_heads=self.num_heads,
            causal=self.causal,
            dropout_rate=self.attention_dropout_rate,
            use_bias=self.use_bias,
            dtype=self.dtype,
            implementation=None if self.mechanism.lacks("implementations") else self.implementation,
            decode=self.decode,
            **linen,
        )


def rematerialized(remat: str) -> type[nn.Module]:
    """Block, recomputed in the backward pass as `remat` says: "none" or a key of REMAT."""
    if remat == "none":
        return Block
    # Arguments counted with self: 3 is `deterministic`.
    return nn.remat(Block, policy=REMAT[remat], static_argnums=(3,))
