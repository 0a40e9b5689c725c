"""How a model knows where a token stands.

| name | what is added to the embeddings |
|---|---|
| learned | a learned row per position (GPT-2, ViT) |
| learned_every_layer | the same, and a table of its own again before every block but the first (Adaptive-nanoGPT) |
| sinusoidal | sin and cos of t 10000^(-c/C) in channels c and c + 1, c even (Vaswani et al. 2017) |
| sinusoidal_neural | sin of t 10000^(-2c/C) and cos of t 10000^(-(2c+1)/C), as released with neural attention |
| rotary | nothing: queries and keys are rotated by each attention layer (Su et al. 2021) |
| none | nothing |

A class token stands at position 0 and the first real token at 1.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jattn.errors import UserError
from jattn.models.layers import small_normal
from jattn.types import Array, Float, Int


def sinusoidal(positions: Int[Array, " T"], width: int) -> Float[Array, "T C"]:
    """Channels c and c + 1, c even, are sin and cos of t 10000^(-c/C)."""
    even = np.arange(0, width, 2)
    return _interleave(positions, even / width, even / width, width)


def sinusoidal_neural(positions: Int[Array, " T"], width: int) -> Float[Array, "T C"]:
    """Channels c and c + 1, c even, are sin of t 10000^(-2c/C) and cos of t 10000^(-(2c+1)/C).

    The exponent runs to 2, not 1: the channel's index was taken for the index of the pair. Kept because it is what
    neural attention's published models were trained with.
    """
    even = np.arange(0, width, 2)
    return _interleave(positions, 2 * even / width, (2 * even + 1) / width, width)


def _interleave(positions: Array, sine: np.ndarray, cosine: np.ndarray, width: int) -> Array:
    """sin and cos in alternating channels, of the positions times 10000^-exponent; an odd width lacks the last cos."""
    positions = positions.astype(jnp.float32)[:, None]

    def angles(exponents: np.ndarray) -> Array:
        return positions * jnp.asarray(10000.0**-exponents, jnp.float32)[None, :]

    pairs = jnp.stack([jnp.sin(angles(sine)), jnp.cos(angles(cosine))], axis=-1)
    return pairs.reshape(positions.shape[0], -1)[:, :width]


FIXED: dict[str, Callable[[Array, int], Array]] = {
    "sinusoidal": sinusoidal,
    "sinusoidal_neural": sinusoidal_neural,
}

POSITIONS = ("learned", "learned_every_layer", *FIXED, "rotary", "none")


def check_length(length: int, max_length: int | None) -> None:
    """UserError if a sequence of `length` tokens does not fit; None fits any."""
    if max_length is not None and length > max_length:
        raise UserError(
            f"a sequence of {length} tokens is longer than max_length {max_length}: "
            f"shorten the sequence or build the model with model.max_length of at least {length}"
        )


class LearnedPositions(nn.Module):
    """A learned table of `max_length` rows (None: as many as tokens at `init`).

    Called with positions it returns their rows. A position past the end, which only decoding can reach without an
    error, gives NaN, never the row of another position.
    """

    max_length: int | None
    width: int

    @nn.compact
    def __call__(self, positions: Int[Array, " T"]) -> Float[Array, "T C"]:
        """Rows of the positions, in float32; UserError if there are more of them than rows."""
        rows = self.max_length
        if rows is None:
            known = self.has_variable("params", "embedding")
            rows = nn.unbox(self.get_variable("params", "embedding")).shape[0] if known else positions.shape[0]
        check_length(positions.shape[0], rows)
        init = nn.with_logical_partitioning(small_normal, ("length", "embed"))
        table = self.param("embedding", init, (rows, self.width))
        return jnp.take(table, positions, axis=0, mode="fill", fill_value=jnp.nan)
