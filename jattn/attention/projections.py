"""Linear maps between tokens and heads, initialised as flax's attention (LeCun: variance 1 / inputs)."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.nn import initializers

from jattn.types import Array, DTypeLike, Float


class ToHeads(nn.Module):
    """A linear map from C features to H heads of D: kernel (C, H, D), bias (H, D)."""

    num_heads: int
    head_dim: int
    use_bias: bool = True
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B H T D"]:
        """Head-major heads of x."""
        names = ("embed", "heads", "head_dim")
        init = initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        shape = (x.shape[-1], self.num_heads, self.head_dim)
        kernel = self.param("kernel", nn.with_logical_partitioning(init, names), shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.with_logical_partitioning(initializers.zeros, names[1:]), shape[1:])
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        # A product of two matrices, as the kernel's gradient then is: see `jattn.models.layers`.
        y = x.reshape(-1, x.shape[-1]) @ kernel.reshape(x.shape[-1], -1)
        y = jnp.swapaxes(y.reshape(*x.shape[:2], *shape[1:]), 1, 2)
        return y if bias is None else y + bias[None, :, None]


class FromHeads(nn.Module):
    """A linear map from H heads of D to C features: kernel (H, D, C), bias (C)."""

    width: int
    use_bias: bool = True
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H T D"]) -> Float[Array, "B T C"]:
        """The heads merged."""
        names = ("heads", "head_dim", "embed")
        init = initializers.lecun_normal(in_axis=(0, 1), out_axis=2)
        shape = (x.shape[1], x.shape[3], self.width)
        kernel = self.param("kernel", nn.with_logical_partitioning(init, names), shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.with_logical_partitioning(initializers.zeros, names[2:]), shape[2:])
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        b, h, t, d = x.shape
        y = (jnp.swapaxes(x, 1, 2).reshape(-1, h * d) @ kernel.reshape(-1, self.width)).reshape(b, t, -1)
        return y if bias is None else y + bias[None, None]
