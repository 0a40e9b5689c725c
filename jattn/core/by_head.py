"""Some heads at a time, or one by one where that is less work: a head of short reach then visits no block that only
another one needs.

Several heads at once make larger operations, of which both cores of a CPU get their part, but visit the blocks within
reach of any of them. Which is faster depends on the learned reaches; both are compiled, and each call takes its choice.
A single block is computed at once: every head needs it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jattn.core import blocks
from jattn.core.blocks import Grid
from jattn.core.call import Call
from jattn.types import Array, Bool, Int, PyTree

WORTH = 0.85
"""Heads go one by one if they visit less than this share of the blocks that all at once visit: on two CPU cores, 8
heads of 64, T 1,024, a block took 1.18 times as long when heads went one by one."""


def reaches(call: Call) -> tuple[Int[Array, " k"], Int[Array, " k"]] | None:
    """The lags (lo, hi) within reach of each key head, or None where they are those of all heads."""
    lo, hi = call.reach()
    _, key_heads, per_key = call.heads
    if key_heads == 1 or not any(jnp.size(end) > 1 for end in (lo, hi) if end is not None):
        return None
    lo, hi = (jnp.broadcast_to(end, key_heads * per_key) for end in blocks.whole_lags((lo, hi)))
    return lo.reshape(key_heads, per_key).min(1), hi.reshape(key_heads, per_key).max(1)


def visited(
    grid: Grid, reach: tuple[Int[Array, " k"], Int[Array, " k"]], offset: int | Array = 0, size: int | None = None
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """How many blocks of one head a forward pass computes, and whether heads go one by one.

    size: key heads that are computed at once if they do not; None = all.
    """
    size = reach[0].size if size is None else size

    def blocks_of(reach: tuple[Array, Array]) -> Array:
        return jax.vmap(lambda lo, hi: blocks.visited(grid, (lo, hi), offset))(*reach).sum()

    apart, together = blocks_of(reach), size * blocks_of(_of_parts(reach, size))
    pays = apart < WORTH * together
    return jnp.where(pays, apart, together), pays


def each(
    function: Callable[[int, tuple[Array, Array]], PyTree],
    grid: Grid,
    call: Call,
    offset: Array,
    reach: tuple[Array, Array],
    size: int,
) -> PyTree:
    """`function(size, reach)`, reach with an entry for each part of so many key heads; of size 1 where that pays.

    `reach` is that of all heads, or has one entry for each.
    """
    if reach[0].ndim == 0:
        lo, hi = (jnp.broadcast_to(end, call.heads[1] // size) for end in reach)
        return function(size, (lo, hi))
    if size == 1:
        return function(1, reach)
    if grid.is_one_block:
        return function(size, _of_parts(reach, size))
    _, pays = visited(grid, reach, offset, size)
    return jax.lax.cond(pays, lambda: function(1, reach), lambda: function(size, _of_parts(reach, size)))


def _of_parts(reach: tuple[Array, Array], size: int) -> tuple[Array, Array]:
    """The lags within reach of some head of each part."""
    lo, hi = reach
    return lo.reshape(-1, size).min(1), hi.reshape(-1, size).max(1)
