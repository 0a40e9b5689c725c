"""Rotary position embedding (Su et al. 2021, "RoFormer", arXiv:2104.09864, section 3.4.2).

Features i and i + D/2 are the two coordinates of a point in the plane, which is turned by position * base ** (-2i/D):

    x'_i       = x_i cos(a_i) - x_{i+D/2} sin(a_i)          a_i = position * base ** (-2 i / D),   i < D/2
    x'_{i+D/2} = x_i sin(a_i) + x_{i+D/2} cos(a_i)

so that <q', k'> depends on positions through their difference alone. The paper pairs neighbours (2i, 2i + 1); the
halves are its implementations' common permutation of features, which the projections before it absorb.
"""

import jax.numpy as jnp

from jattn.types import Array, Float, Int


def rotate(
    x: Float[Array, "B H T D"], offset: Int[Array, ""] | int = 0, base: float | int = 10000.0
) -> Float[Array, "B H T D"]:
    """Features turned by the angles of positions `offset`, `offset` + 1, ...; computed in float32, in x's dtype.

    An odd last feature stays as it is.
    """
    length, pairs = x.shape[2], x.shape[3] // 2
    positions = (offset + jnp.arange(length)).astype(jnp.float32)
    frequencies = float(base) ** (-jnp.arange(pairs, dtype=jnp.float32) / max(pairs, 1))
    angles = (positions[:, None] * frequencies[None, :])[None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos, rest], axis=-1).astype(x.dtype)
