"""Rotary position embedding (Su et al. 2021, "RoFormer", arXiv:2104.09864, section 3.4.2).

Features i and i + D/2 are the two coordinates of a point in the plane, which is turned by position * base ** (-2i/D):

    x'_i       = x_i cos(a_i) - x_{i+D/2} sin(a_i)          a_i = position * base ** (-2 i / D),   i < D/2
    x'_{i+D/2} = x_i sin(a_i) + x_{i+D/2} cos(a_i)

so that <q', k'> depends on positions through their difference alone. The paper pairs neighbours (2i, 2i + 1); the
halves are its implementations' common permutation of features, which the projections before it absorb.
"""

import jax
import jax.numpy as jnp

from jattn.types import Array, Float, Int

_FINE = 64  # positions whose angles are computed one by one


def rotate(
    x: Float[Array, "B H T D"], offset: Int[Array, ""] | int = 0, base: float | int = 10000.0
) -> Float[Array, "B H T D"]:
    """Features turned by the angles of positions `offset`, `offset` + 1, ...; computed in float32, in x's dtype.

    An odd last feature stays as it is.
    """
    length, pairs = x.shape[2], x.shape[3] // 2
    cos, sin = (table[None, None] for table in _tables(offset, length, pairs, float(base)))
    points = x[..., : 2 * pairs]
    turned = points * jnp.concatenate([cos, cos], -1) + jnp.roll(points, pairs, -1) * jnp.concatenate([-sin, sin], -1)
    return jnp.concatenate([turned, x[..., 2 * pairs :]], -1).astype(x.dtype)


def _tables(
    offset: Int[Array, ""] | int, length: int, pairs: int, base: float
) -> tuple[Float[Array, "T p"], Float[Array, "T p"]]:
    """cos and sin of the angles of so many positions from `offset` on.

    Position 64 i + j is turned by 64 i and by j, so that of many positions few angles need a cosine: XLA puts what
    makes the tables into every loop that reads them, once a head, where cosines took most of the time.
    """
    frequencies = base ** (-jnp.arange(pairs, dtype=jnp.float32) / max(pairs, 1))

    def turns(positions: Int[Array, "..."]) -> tuple[Array, Array]:
        angles = positions.astype(jnp.float32)[..., None] * frequencies.reshape(*(1,) * positions.ndim, pairs)
        return jnp.cos(angles), jnp.sin(angles)

    behind = offset % _FINE
    if length < _FINE:
        rest = (behind + jnp.arange(length)) % _FINE
        return _both(turns(offset + jnp.arange(length) - rest), turns(rest))
    starts = offset - behind + _FINE * jnp.arange(-(-(length + _FINE - 1) // _FINE))
    whole = (table.reshape(-1, pairs) for table in _both(turns(starts[:, None]), turns(jnp.arange(_FINE)[None])))
    cos, sin = (jax.lax.dynamic_slice_in_dim(table, behind, length) for table in whole)
    return cos, sin


def _both(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """cos and sin of sums of angles, given those of each."""
    return first[0] * second[0] - first[1] * second[1], first[1] * second[0] + first[0] * second[1]
