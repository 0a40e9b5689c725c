"""Heads one by one, where that is less work: a head of short reach then visits no block that only another one needs.

All heads at once make larger products, of which both cores of a CPU get their part, but visit the blocks within reach
of any head. Which is faster depends on the learned reaches; both are compiled, and each call takes its choice.
"""

from collections.abc import Callable
from typing import Any

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
    grid: Grid, reach: tuple[Int[Array, " k"], Int[Array, " k"]], offset: int | Array = 0
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """How many blocks of one head a forward pass computes, and whether heads go one by one."""
    apart = jax.vmap(lambda lo, hi: blocks.visited(grid, (lo, hi), offset))(*reach).sum()
    together = reach[0].size * blocks.visited(grid, reach, offset)
    pays = apart < WORTH * together
    return jnp.where(pays, apart, together), pays


def each(
    function: Callable[..., PyTree], grid: Grid, call: Call, offset: Array, reach: tuple[Array, Array], *others: PyTree
) -> PyTree:
    """`function(call, reach, *others)`, of scalars `reach`, for all heads at once or one after another.

    Leaves have their key heads on axis 1, or 1 where heads share them: gradients of those are summed over the heads.
    `reach` is that of all heads, or has one entry for each.
    """
    if reach[0].ndim == 0:
        return function(call, reach, *others)
    key_heads = reach[0].size

    def together() -> PyTree:
        return function(call, blocks.union(reach), *others)

    def apart() -> PyTree:
        def one(head: Array) -> PyTree:
            def own(leaf: Any) -> Any:
                if jnp.ndim(leaf) < 2 or leaf.shape[1] != key_heads:
                    return leaf
                return jax.lax.dynamic_index_in_dim(leaf, head, 1)

            return function(*jax.tree.map(own, (call,)), (reach[0][head], reach[1][head]), *jax.tree.map(own, others))

        def joined(leaf: Array, like: jax.ShapeDtypeStruct) -> Array:
            return leaf.sum(0) if like.shape[1] == 1 else jnp.moveaxis(leaf[:, :, 0], 0, 1)

        return jax.tree.map(joined, jax.lax.map(one, jnp.arange(key_heads)), jax.eval_shape(together))

    _, pays = visited(grid, reach, offset)
    return jax.lax.cond(pays, apart, together)
