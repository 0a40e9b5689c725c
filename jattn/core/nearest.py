"""The nearest keys of every query, found without the (T, S) matrix and gathered without (T, S, D).

    index, found = nearest(q, k, 9, score=Dot(), mask=Padding())     the 9 keys of highest score, best first
    values = gather(v[0, 0], index[0, 0])                             of one head of one example: T 9 D

Indices have no derivative. What is differentiable, the scores of the keys found, is computed anew from what was
gathered: a backward pass costs O(T n D) for n neighbours.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jattn.core import blocks, by_example
from jattn.core.call import Call
from jattn.core.dense import logits
from jattn.core.masks import Mask
from jattn.core.scores import Dot
from jattn.core.sharding import of_pairs
from jattn.types import Array, Bool, Float, Int, Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NotAfter(Mask):
    """Keys at or before the query where keys are in any order: rider "place" of q, Int[B|1 1 T], and of k."""

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True where the key's place is not after the query's."""
        return q["place"][:, None] >= k["place"][None, :]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NotOwn(Mask):
    """Keys that are not the query's own token: riders "place" as for `NotAfter`."""

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True where the places differ."""
        return q["place"][:, None] != k["place"][None, :]


FEW = 32
"""Up to so many keys, XLA's sort for CPUs, which is its `top_k`, is slower than one pass for each of the best."""


class Nearest(NamedTuple):
    """The n best keys of each query, best first; equal scores in the order of the keys.

    index: of the keys; arbitrary where there is none.
    found: False where a query may attend to fewer than n keys.
    """

    index: Int[Array, "B H T n"]
    found: Bool[Array, "B H T n"]


def nearest(
    q: Tokens,
    k: Tokens,
    count: int,
    *,
    score: Any = Dot(),  # noqa: B008 (an immutable value)
    bias: Any = None,
    mask: Any = None,
    offset: int | Int[Array, ""] = 0,
) -> Nearest:
    """The `count` keys of highest score plus bias among those that each query may attend to.

    Works on blocks of queries, of which all scores exist at a time. Arguments as in
    `jattn.core.attend`; gradients are stopped.
    """
    q, k, score, bias, mask = jax.lax.stop_gradient((q, k, score, bias, mask))

    def of_examples(call: Call) -> Nearest:
        return by_example.rows(lambda call: _by_blocks(call, count), call)

    return of_pairs(of_examples, q, k, score, bias, mask, offset)


def gather(tokens: Float[Array, "S D"], index: Int[Array, "T n"]) -> Float[Array, "T n D"]:
    """The tokens of one head at these indices."""
    # Once: what follows would otherwise be compiled into loops that gather again, number by number.
    return jax.lax.optimization_barrier(tokens.at[index].get(mode="clip"))


def score_matrix(
    q: Tokens,
    k: Tokens,
    *,
    score: Any = Dot(),  # noqa: B008 (an immutable value)
    bias: Any = None,
    mask: Any = None,
    offset: int | Int[Array, ""] = 0,
) -> Float[Array, "B H T S"]:
    """Score plus bias of every pair, -inf where it may not attend: O(T S) memory, differentiable in every mode."""
    return of_pairs(lambda call: call.ungroup(logits(call)), q, k, score, bias, mask, offset)


def best(values: Float[Array, "*B S"], count: int) -> tuple[Int[Array, "*B n"], Bool[Array, "*B n"]]:
    """Indices of the `count` largest values, largest first, and whether each is above -inf.

    NaN comes last, but before -inf, which means "no such pair": `top_k` itself would take it first.
    """
    lowest = jnp.finfo(values.dtype).min
    values = jnp.where((values > lowest) | (values == -jnp.inf), values, lowest)
    missing = max(count - values.shape[-1], 0)
    few = count > missing and values.shape[-1] <= FEW and jax.default_backend() == "cpu"
    values, index = (_top_by_passes if few else jax.lax.top_k)(values, count - missing)
    widths = [(0, 0)] * (values.ndim - 1) + [(0, missing)]
    return jnp.pad(index, widths), jnp.pad(values > -jnp.inf, widths)


def _top_by_passes(values: Float[Array, "*B S"], count: int) -> tuple[Float[Array, "*B n"], Int[Array, "*B n"]]:
    """`jax.lax.top_k` of values without NaN, one after another; arbitrary indices where no more than -inf is left."""
    left = jnp.moveaxis(values, -1, 0)  # keys first, so that one instruction compares many rows
    keys, *rows = left.shape
    place = jnp.broadcast_to(jnp.arange(keys, dtype=jnp.int32).reshape(keys, *[1] * len(rows)), left.shape)

    best, index = [], []
    for _ in range(count):
        best.append(left.max(0))
        index.append(jnp.min(jnp.where(left == best[-1][None], place, keys - 1), 0))
        left = jnp.where(place == index[-1][None], -jnp.inf, left)
    return jnp.stack(best, -1), jnp.stack(index, -1)


def _by_blocks(call: Call, count: int) -> Nearest:
    grid = by_example.whole_rows(call)
    view = blocks.View(grid, call, blocks.lag_table(call, grid), call.offset)

    def query_block(i: Array, rows: tuple[Array, Array]) -> tuple[Array, Array]:
        q, (k, _) = view.queries(i), view.keys(0)  # in one block
        values = view.logits(view.scores(call.score, q, k, i, 0), q, k, i, 0)
        found = jax.tree.map(call.with_ones, best(values, count))
        return blocks.written(rows, found, i * grid.query_block)

    shape = (*call.heads, grid.query_blocks * grid.query_block, count)
    rows = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)
    rows = blocks.in_turn(0, grid.query_blocks, query_block, rows)
    return Nearest(*(call.ungroup(row[:, :, :, : grid.queries]) for row in rows))
