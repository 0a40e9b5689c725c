"""How the next token is chosen from its logits."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jattn.errors import UserError
from jattn.types import Array, Float, Int, Key


@dataclass(frozen=True)
class Sampling:
    """What may be chosen, and how boldly; first the temperature, then top_k, then top_p.

    temperature: divides the logits; 0 = always the likeliest token.
    top_k: only so many of the likeliest tokens, or, below 1, that share of the vocabulary, rounded up; None = all.
    top_p: only the fewest of the likeliest tokens whose probabilities add up to this (Holtzman et al. 2020,
      arXiv:1904.09751, section 3.1); None = all.

    Raises UserError when made with a value out of range.
    """

    temperature: float | int = 1.0
    top_k: float | int | None = None
    top_p: float | int | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature} must be at least 0, which takes the likeliest token")
        k = self.top_k
        if k is not None and not (0 < k < 1 or (k >= 1 and k == int(k))):
            raise UserError(f"top_k={k} must be a number of tokens, or a share of the vocabulary between 0 and 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} is a probability: it must be above 0 and at most 1")


def candidates(logits: Float[Array, "B V"], sampling: Sampling) -> tuple[Float[Array, "B V"], Int[Array, "B V"]]:
    """Logits from the largest to the smallest, -inf for what may not be chosen, and the tokens that they are of.

    Of equal logits the smaller token comes first. The temperature is not 0.
    """
    tokens = jnp.argsort(logits, axis=-1, stable=True, descending=True)
    logits = jnp.take_along_axis(logits, tokens, axis=-1) / sampling.temperature
    size = logits.shape[-1]
    if sampling.top_k is not None:
        k = math.ceil(sampling.top_k * size) if sampling.top_k < 1 else int(sampling.top_k)
        logits = jnp.where(jnp.arange(size)[None] < k, logits, -jnp.inf)
    if sampling.top_p is not None:
        probabilities = jax.nn.softmax(logits, axis=-1)
        likelier = jnp.cumsum(probabilities, axis=-1) - probabilities
        logits = jnp.where(likelier < sampling.top_p, logits, -jnp.inf)
    return logits, tokens


def choose(logits: Float[Array, "B V"], keys: Key[Array, " B"], sampling: Sampling) -> Int[Array, " B"]:
    """The next token of each row: a function of its own logits and key alone."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    draw = jax.vmap(jax.random.categorical)
    if sampling.top_k is None and sampling.top_p is None:
        return draw(keys, logits / sampling.temperature)
    logits, tokens = candidates(logits, sampling)
    return jnp.take_along_axis(tokens, draw(keys, logits)[:, None], axis=-1)[:, 0]
