"""The convolution over ranks of ConvNN attention: one output a token, the same kernel for all tokens and heads."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.nn import initializers

from jattn.attention.cost import Cost
from jattn.types import Array, DTypeLike, Float

Kind = Literal["standard", "depthwise", "depthwise-separable"]

# The source's initialisers: torch's uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)), and ones for the depthwise kernel.
_UNIFORM = initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=(0, 1), out_axis=2)
_UNIFORM_DEPTHWISE = initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=0, out_axis=(), batch_axis=1)
_UNIFORM_POINTWISE = initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Convolution(NamedTuple):
    """A convolution's parameters; see `RankConvolution` for the kinds."""

    kernel: Float[Array, "K c o"] | Float[Array, "K c"]
    pointwise: Float[Array, "c o"] | None

    def __call__(self, weights: Float[Array, "t K"], neighbours: Float[Array, "t K c"]) -> Float[Array, "t o"]:
        """`y[t, o] = sum over rank r of weights[t, r] C_r neighbours[t, r]`."""
        if self.kernel.ndim == 3:
            return jnp.einsum("trc,rco->to", weights[..., None] * neighbours, self.kernel)
        # One product a token: gradients of a sum over weighted neighbours took XLA ten times as long.
        y = jnp.einsum("tr,trc->tc", weights, neighbours * self.kernel[None])
        return y if self.pointwise is None else y @ self.pointwise


class RankConvolution(nn.Module):
    """`y[o] = sum over rank r of C_r x_r`, C_r linear from c to o features, without bias.

    kind: "standard", kernel (K, c, o); "depthwise", kernel (K, c), C_r diagonal; "depthwise-separable", the latter
      followed by a pointwise map (c, o).
    features: o; a depthwise convolution keeps c.
    """

    kind: Kind
    features: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, values: Float[Array, "B H S c"], ranks: int
    ) -> tuple[Float[Array, "B H S c"], Convolution, Float[Array, " K"]]:
        """The values and the convolution in the dtype they share, and the Frobenius norm of every C_r."""
        inputs = values.shape[-1]
        if self.kind == "standard":
            init = nn.with_logical_partitioning(_UNIFORM, (None, None, "head_dim"))
            kernel = self.param("kernel", init, (ranks, inputs, self.features))
            norms, pointwise = jnp.sqrt(jnp.sum(jnp.square(kernel), (1, 2))), None
        else:
            init = initializers.ones if self.kind == "depthwise" else _UNIFORM_DEPTHWISE
            kernel = self.param("kernel", nn.with_logical_partitioning(init, (None, "head_dim")), (ranks, inputs))
            norms, pointwise = jnp.sqrt(jnp.sum(jnp.square(kernel), 1)), None
        if self.kind == "depthwise-separable":
            init = nn.with_logical_partitioning(_UNIFORM_POINTWISE, (None, "head_dim"))
            pointwise = self.param("pointwise", init, (inputs, self.features))
            norms = jnp.sqrt(jnp.square(kernel) @ jnp.sum(jnp.square(pointwise), 1))
        values, kernel, pointwise = promote_dtype(values, kernel, pointwise, dtype=self.dtype)
        return values, Convolution(kernel, pointwise), norms


def cost(kind: Kind, tokens: int, ranks: int, inputs: int, outputs: int, dtype_bytes: int) -> Cost:
    """The cost of one convolution for `tokens` tokens, its input and output left to others."""
    params, flops = {
        "standard": (ranks * inputs * outputs, 2 * ranks * inputs * outputs),
        "depthwise": (ranks * inputs, 2 * ranks * inputs),
        "depthwise-separable": (ranks * inputs + inputs * outputs, 2 * ranks * inputs + 2 * inputs * outputs),
    }[kind]
    return Cost(params, tokens * flops, dtype_bytes * params)
