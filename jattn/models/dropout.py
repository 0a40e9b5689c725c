"""Dropout of features by an integer hash."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn import core
from jattn.types import Array, Float


class Dropout(nn.Module):
    """Zeroes each feature of each token with probability `rate` and divides the others by 1 - rate.

    What is dropped is a function of (a seed from the stream "dropout", example, token, feature), the same on any number
    of devices, by the core's hash (`jattn.core.dropout`). A backward pass computes it again instead of storing it, for
    a small part of what drawing bits costs.
    """

    rate: float | int

    def __call__(self, x: Float[Array, "B T C"], *, deterministic: bool) -> Float[Array, "B T C"]:
        """x after dropout, or x itself if `deterministic`."""
        if deterministic or not self.rate:
            return x
        dropout = core.Dropout(float(self.rate), jax.random.bits(self.make_rng("dropout"), dtype=jnp.uint32))
        examples, tokens, features = (jnp.arange(size) for size in x.shape)
        rows = jax.vmap(lambda example: dropout.rows(example, jnp.zeros((), jnp.int32), tokens))(examples)
        kept = jax.vmap(dropout.kept, (0, None))(rows, features)
        return jnp.where(kept, x / (1 - self.rate), 0.0)
