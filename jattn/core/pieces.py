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
from jattn.core.sharding import over_mesh
from jattn.types import Array, PyTree

NUMBERS = 2**19
"""Of what a piece looks up: 2 MB in float32."""


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
    """Some heads at a time: those of all examples are one axis, the first, so that none is copied to be apart."""
    batch, heads, length = jax.tree.leaves(queries)[0].shape[:3]
    function = jax.vmap(jax.checkpoint(function), (0, 0, None))
    together = _divisor(batch * heads, NUMBERS // max(length * numbers, 1))
    pieces = batch * heads // together
    cut = jax.tree.map(lambda leaf: leaf.reshape(pieces, together, *leaf.shape[2:]), (queries, tokens))
    out = jax.lax.map(lambda piece: _by_queries(function, *piece, shared, numbers), cut)
    return out.reshape(batch, heads, length, *out.shape[3:])


def _by_queries(function: Callable, queries: PyTree, tokens: PyTree, shared: PyTree, numbers: int) -> Array:
    """All queries, or where these are too many, which happens to one head only, some at a time."""
    length = jax.tree.leaves(queries)[0].shape[1]
    grid = blocks.grid(length, 0, max(8, NUMBERS // max(numbers, 1)))
    if grid.query_blocks <= 1:
        return function(queries, tokens, shared)

    def cut(leaf: Array) -> Array:
        missing = grid.query_blocks * grid.query_block - length
        leaf = jnp.pad(leaf, [(0, missing if axis == 1 else 0) for axis in range(leaf.ndim)])
        return leaf.reshape(grid.query_blocks, 1, grid.query_block, *leaf.shape[2:])

    out = jax.lax.map(lambda piece: function(piece, tokens, shared), jax.tree.map(cut, queries))
    return out.reshape(1, grid.query_blocks * grid.query_block, *out.shape[3:])[:, :length]


def _divisor(number: int, largest: int) -> int:
    """The largest divisor of a number that is not above another; at least 1."""
    return next(size for size in range(max(1, min(largest, number)), 0, -1) if number % size == 0)
