"""The parts every model is made of: activations, dense layers, mlp, layer norm, token and patch embeddings.

Initialisation. Kernels are LeCun normal (variance 1 / fan-in, flax's own default): inputs come from a layer norm,
so outputs start with unit variance at any width. Biases are zero. Token embeddings are normal with variance
1 / width (Vaswani et al. 2017): tied as output weights they give logits of unit variance, and
`embedding_scale = width ** 0.5` makes them as large as sinusoidal positions. Learned positions and output layers
are normal(0.02), as in GPT-2, BERT and ViT: small beside what they are added to, and the first loss is close to
the logarithm of the number of classes while gradients already reach every layer.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn.core import stored
from jattn.errors import UserError, unknown
from jattn.models.dropout import Dropout
from jattn.types import Array, DTypeLike, Float, Int


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x P(x), P the normal distribution's cumulative function (Hendrycks & Gimpel 2016, arXiv:1606.08415), exactly.

    `jax.nn.gelu(x, approximate=False)`, but P is computed once and kept for the derivative P(x) + x P'(x). XLA computes
    it again in every operation that reads either, having no operation for erfc that it would call expensive.
    """
    return x * _normal_cdf(x)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    cdf = stored(_normal_cdf(x))
    density = jnp.exp(-x * x / 2) * jnp.asarray((2 * math.pi) ** -0.5, x.dtype)
    return x * cdf, tangent * (cdf + x * density)


def _normal_cdf(x: Array) -> Array:
    return jax.lax.erfc(-x * jnp.asarray(0.5**0.5, x.dtype)) / 2


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

small_normal = nn.initializers.normal(0.02)


def activation(name: str) -> Callable[[Array], Array]:
    """The elementwise function of that name; UserError with the nearest names otherwise."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def dense(
    features: int,
    axes: tuple[str | None, str | None],
    *,
    name: str,
    use_bias: bool = True,
    dtype: DTypeLike = jnp.float32,
    kernel_init: nn.initializers.Initializer | None = None,
    dot_general: Callable[..., Array] | None = None,
) -> nn.Dense:
    """A dense layer whose parameters carry the logical names `axes` of its input and output features."""
    kernel_init = kernel_init or nn.initializers.lecun_normal()
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        dot_general=functools.partial(_by_rows, dot_general or jax.lax.dot_general),
        kernel_init=nn.with_logical_partitioning(kernel_init, axes),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes[1:]),
        name=name,
    )


def _by_rows(
    dot_general: Callable[..., Array], x: Float[Array, "*B T C"], kernel: Float[Array, "C F"], _: Any, **options: Any
) -> Float[Array, "*B T F"]:
    """x times the kernel as a product of two matrices, so that the kernel's gradient is one too.

    As a product of x with several leading axes, the gradient contracts over all of them: XLA then transposes x and the
    cotangent before it.
    """
    y = dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options)
    return y.reshape(*x.shape[:-1], -1)


def output_layer(features: int, *, use_bias: bool, dtype: DTypeLike, name: str = "output") -> nn.Dense:
    """The last layer: multiplies in `dtype`, accumulates and returns float32 logits."""
    return dense(
        features,
        ("embed", "vocab"),
        name=name,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=small_normal,
        dot_general=functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32),
    )


def layer_norm(
    *, epsilon: float | int, dtype: DTypeLike, use_bias: bool = True, name: str | None = None
) -> nn.LayerNorm:
    """Layer norm over features with scale and perhaps bias; statistics in float32 whatever `dtype` is."""
    return nn.LayerNorm(
        epsilon=epsilon,
        use_bias=use_bias,
        dtype=dtype,
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels when the mean is large
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
        name=name,
    )


class Mlp(nn.Module):
    """x -> W2 activation(W1 x + b1) + b2, on each token alone; dropout acts on the hidden features."""

    hidden_dim: int
    activation: str = "gelu"
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    dropout_rate: float | int = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B T C"], deterministic: bool = True) -> Float[Array, "*B T C"]:
        """The mlp of every token."""
        options = {"use_bias": self.use_bias, "dtype": self.dtype}
        hidden = dense(self.hidden_dim, ("embed", "mlp"), name="hidden", **options)(x)
        # For the derivative's sake: two products and the bias read it.
        hidden = activation(self.activation)(stored(hidden))
        if self.dropout_rate:
            hidden = Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        return dense(x.shape[-1], ("mlp", "embed"), name="output", **options)(hidden)


class TokenEmbedding(nn.Module):
    """A table of token vectors; `attend` uses the same table as output weights."""

    vocab_size: int
    width: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Declares the table."""
        self.embedding = self.param(
            "embedding",
            nn.with_logical_partitioning(nn.initializers.normal(self.width**-0.5), ("vocab", "embed")),
            (self.vocab_size, self.width),
        )

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T C"]:
        """Rows of the table. A token outside the vocabulary gives NaN, never another token's vector."""
        return jnp.take(self.embedding, tokens, axis=0, mode="fill", fill_value=jnp.nan).astype(self.dtype)

    def attend(self, x: Float[Array, "B T C"]) -> Float[Array, "B T V"]:
        """Float32 logits x E^T."""
        table = self.embedding.astype(self.dtype)
        return jnp.einsum("btc,vc->btv", x, table, preferred_element_type=jnp.float32)


class PatchEmbedding(nn.Module):
    """A convolution whose kernel and stride are the patch: one token a patch, row by row (ViT, eq. 1)."""

    patch_size: int
    width: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B h w c"]) -> Float[Array, "B T C"]:
        """One token a patch; UserError if the patch does not divide the pictures."""
        num_patches(images.shape[1:3], self.patch_size)
        x = nn.Conv(
            self.width,
            kernel_size=(self.patch_size, self.patch_size),
            strides=(self.patch_size, self.patch_size),
            padding="VALID",
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None, None, None, "embed")),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
            name="projection",
        )(images)
        return x.reshape(x.shape[0], -1, self.width)


def num_patches(image_size: tuple[int, ...], patch_size: int) -> int:
    """Patches of a picture of height x width pixels; UserError if the patch does not divide it.

    >>> num_patches((8, 12), 4)
    6
    """
    height, width = image_size
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise UserError(
            f"patch_size {patch_size} does not divide pictures of {height} x {width} pixels: "
            f"choose model.patch_size among the divisors of both"
        )
    return (height // patch_size) * (width // patch_size)
