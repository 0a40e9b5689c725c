"""Some examples at a time, where a block of all of them is more than a cache holds.

Each example's tokens are next to each other in memory, so that nothing is copied to be apart, and what exists of a
block, or is filled up to whole blocks, exists for a few examples only.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jattn.core import blocks
from jattn.core.blocks import Grid
from jattn.core.call import Call
from jattn.core.cutting import divisor, in_parts, numbers_at_a_time
from jattn.types import PyTree

_SCORES, _ROW_SCORES, _ROWS = 2**17, 2**18, 128
"""Scores of a block, scores of rows with all keys, and rows at a time."""


def together(call: Call, pairs: int) -> int:
    """How many examples at a time, if a block has so many pairs of each head: a divisor of their number."""
    batch, *heads = call.heads
    return divisor(batch, numbers_at_a_time(_SCORES) // max(math.prod(heads) * pairs, 1))


def each(function: Callable[..., PyTree], pairs: int, call: Call, *others: PyTree, like: PyTree = None) -> PyTree:
    """`function(call, *others)` for some examples at a time, if a block has so many pairs of each head.

    Leaves lead with the examples, or with 1 where these share them. Those of the bias lead with heads.

    like: of which the results are gradients: where examples share one, its gradient is summed over the parts. None: all
      results lead with the examples.
    """
    batch, examples = call.heads[0], together(call, pairs)
    if examples == batch:
        return function(call, *others)
    leaves, structure = jax.tree.flatten((dataclasses.replace(call, bias=None), *others))
    led = [jnp.ndim(leaf) > 0 and leaf.shape[0] == batch for leaf in leaves]

    def part(own: list) -> PyTree:
        source = iter(own)
        both = zip(leaves, led, strict=True)
        few, *others = structure.unflatten([next(source) if yes else leaf for leaf, yes in both])
        return function(dataclasses.replace(few, bias=call.bias), *others)

    out = in_parts(part, batch // examples, [leaf for leaf, yes in zip(leaves, led, strict=True) if yes])
    if like is None:
        return out
    return jax.tree.map(lambda leaf, of: leaf.sum(0, keepdims=True) if of.shape[0] == 1 else leaf, out, like)


def rows(function: Callable[[Call], PyTree], call: Call) -> PyTree:
    """A function of rows of scores, of which each has all keys: of so many examples that 128 rows are not too many."""
    return each(function, min(call.queries, _ROWS) * call.keys, call)


def whole_rows(call: Call, largest: int | None = None) -> Grid:
    """Blocks of which one has all keys, so that a row of it is a row of the matrix.

    largest: number of queries; None = 128, or fewer if these are too many scores, but at least 8.
    """
    keys = max(call.keys, 1)
    if largest is None:
        largest = max(8, min(_ROWS, numbers_at_a_time(_ROW_SCORES) // (max(math.prod(call.heads), 1) * keys)))
    return Grid(call.queries, call.keys, blocks.grid(call.queries, 1, largest).query_block, keys)
