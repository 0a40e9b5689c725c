"""A function of queries, and of tokens that they look up, some queries at a time.

What a query looks up is many times its own size: all of it at once fits into no cache, and would be kept for the
backward pass. So it is done in pieces, each computed when it is needed, and again in the backward pass. All modes of
differentiation work, as the function itself is differentiated.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jattn.core import blocks
from jattn.core.cutting import divisor, in_parts, numbers_at_a_time
from jattn.core.sharding import over_mesh
from jattn.types import Array, PyTree

_LOOKED_UP = 2**18
"""Numbers of a piece. On two CPU cores half as many, or twice as many, took more time or memory."""


def in_pieces(
    function: Callable[[PyTree, PyTree, PyTree], Array], queries: PyTree, tokens: PyTree, shared: PyTree, numbers: int
) -> Array:
    """`function(queries, tokens, shared)` for each head of each example, (B, H, T, ...), without all it looks up.

    The function is written for some queries of one head of one example: leaves (t, ...) to a result (t, ...).

    queries: leaves (B, H, T, ...).
    tokens: leaves (B, H, S, ...), of which any may be looked up by any query of the same head and example.
    shared: parameters of all.
    numbers: how many one query looks up.
    """
    batch, heads = jax.tree.leaves(queries)[0].shape[:2]
    kinds = "tokens", "tokens", "whole"
    return over_mesh(functools.partial(_by_heads, function, numbers), kinds, batch, heads)(queries, tokens, shared)


def _by_heads(function: Callable, numbers: int, queries: PyTree, tokens: PyTree, shared: PyTree) -> Array:
    """Some heads at a time: those of all examples are one axis, the first."""
    batch, heads, length = jax.tree.leaves(queries)[0].shape[:3]
    function = jax.vmap(jax.checkpoint(function), (0, 0, None))
    together = divisor(batch * heads, numbers_at_a_time(_LOOKED_UP) // max(length * numbers, 1))
    pairs = jax.tree.map(lambda leaf: leaf.reshape(batch * heads, *leaf.shape[2:]), (queries, tokens))
    out = in_parts(lambda part: _by_queries(function, *part, shared, numbers), batch * heads // together, pairs)
    return out.reshape(batch, heads, *out.shape[1:])


def _by_queries(function: Callable, queries: PyTree, tokens: PyTree, shared: PyTree, numbers: int) -> Array:
    """All queries, or where these are too many, which happens to one head only, some at a time."""
    length = jax.tree.leaves(queries)[0].shape[1]
    grid = blocks.grid(length, 0, max(8, numbers_at_a_time(_LOOKED_UP) // max(numbers, 1)))
    if grid.query_blocks <= 1:
        return function(queries, tokens, shared)

    def rows(leaf: Array) -> Array:
        missing = grid.query_blocks * grid.query_block - length
        return jnp.pad(leaf[0], [(0, missing if axis == 0 else 0) for axis in range(leaf.ndim - 1)])

    def part(rows: PyTree) -> Array:
        return function(jax.tree.map(lambda leaf: leaf[None], rows), tokens, shared)[0]

    return in_parts(part, grid.query_blocks, jax.tree.map(rows, queries))[None, :length]
