"""The score that a query's k best keys reach, and no other key.

Found without the (T, S) matrix: rows of a few queries at a time, and in each row by halving an interval, which
counts and compares and needs no sorting. On two CPU cores 1,024 rows of 1,024 scores and three heads took 17 ms
whatever k; `jax.lax.top_k` took 345.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core import blocks, by_example
from jattn.core.call import Call
from jattn.core.scores import Dot
from jattn.core.sharding import of_pairs
from jattn.types import Array, Float, Int, Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Another score, where it is not below rider "threshold" of q, Float[B|1 H|1 T]; -inf elsewhere.

    score: the other score.
    """

    score: Any

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block. One that is not a number stays, to be seen."""
        scores = self.score(q, k, q_pos, k_pos)
        # A sum, whose derivative needs no scores: where a pair is left out, its weight and so its gradient are 0.
        return scores + jax.lax.stop_gradient(jnp.where(scores < q["threshold"][:, None], -jnp.inf, 0.0))


HALVINGS = 26
"""Most halvings. The interval's last length, relative to its first, is below the rounding error of scores."""


def thresholds(
    q: Tokens,
    k: Tokens,
    count: int,
    *,
    score: Any = Dot(),  # noqa: B008 (an immutable value)
    bias: Any = None,
    mask: Any = None,
    offset: int | Int[Array, ""] = 0,
    rows: int | None = None,
) -> Float[Array, "B H T"]:
    """A number for every query that the `count` largest of its logits exceed, and the others do not.

    It lies in the middle between the `count`-th and the next, since a logit that is computed again, in a block of
    another size, differs in its last bit. Logits that lie closer together than that are ties, and those that tie with
    the `count`-th exceed the threshold too. It is -inf where no more than `count` pairs are allowed.

    Gradients are stopped. Other arguments are as in `jattn.core.attend`; `rows` is how many queries are looked at
    at a time, None = few enough for O(T + S) memory.
    """
    q, k, score, bias, mask = jax.lax.stop_gradient((q, k, score, bias, mask))

    def of_examples(call: Call) -> Array:
        return by_example.rows(lambda call: _by_rows(call, count, rows), call)

    return of_pairs(of_examples, q, k, score, bias, mask, offset)


def _by_rows(call: Call, count: int, rows: int | None) -> Float[Array, "B H T"]:
    dtype = jnp.promote_types(jnp.result_type(*jax.tree.leaves((call.q, call.k, call.score))), jnp.float32)
    if count >= call.keys:
        return call.ungroup(jnp.full((*call.heads, call.queries), -jnp.inf, dtype))
    whole = by_example.whole_rows(call, rows)
    view = blocks.View(whole, call, blocks.lag_table(call, whole), call.offset)
    k, _ = view.keys(0)  # in one block

    def query_block(i: Array, found: Array) -> Array:
        q = view.queries(i)
        logits = view.logits(view.scores(call.score, q, k, i, 0), q, k, i, 0)
        rows = call.with_ones(_between(logits, count).astype(dtype))
        return blocks.written(found, rows, i * whole.query_block)

    shape = (*call.heads, whole.query_blocks * whole.query_block)
    found = blocks.in_turn(0, whole.query_blocks, query_block, jnp.zeros(shape, dtype))
    return call.ungroup(found[:, :, :, : call.queries])


def _between(logits: Float[Array, "*B S"], count: int) -> Float[Array, "*B"]:
    """The middle between the `count`-th largest of each row and the largest that is smaller."""
    # As rows: of an array with an axis of size 1, XLA makes a copy in front of a loop.
    rows = logits.reshape(math.prod(logits.shape[:-1]), logits.shape[-1])
    ones = jnp.ones(rows.shape[1], rows.dtype)

    def goes_on(carry: tuple[Array, ...]) -> Array:
        step, lo, hi, reach = carry
        return (step < HALVINGS) & jnp.any((reach > count) & (lo < hi))

    def halve(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        step, lo, hi, reach = carry
        middle = (lo + hi) / 2
        new = (rows >= middle[:, None]).astype(rows.dtype) @ ones  # a product, as XLA sums integers more slowly
        enough = new >= count
        return step + 1, jnp.where(enough, middle, lo), jnp.where(enough, hi, middle), jnp.where(enough, new, reach)

    # At least `count` logits, `reach` of them, are >= lo throughout, or all that are allowed.
    allowed = rows > -jnp.inf
    lo = jnp.min(jnp.where(allowed, rows, jnp.inf), -1)
    carry = jnp.zeros((), jnp.int32), lo, jnp.max(rows, -1), allowed.astype(rows.dtype) @ ones
    lo = jax.lax.while_loop(goes_on, halve, carry)[1]
    chosen = rows >= lo[:, None]
    least = jnp.min(jnp.where(chosen, rows, jnp.inf), -1)
    next_best = jnp.max(jnp.where(chosen, -jnp.inf, rows), -1)
    return jnp.where(next_best > -jnp.inf, (least + next_best) / 2, -jnp.inf).reshape(logits.shape[:-1])
