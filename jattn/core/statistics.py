"""What attention does, row by row, in one more forward pass by blocks and without gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core import blocks
from jattn.core.call import Call
from jattn.core.scores import Dot
from jattn.core.sharding import of_pairs
from jattn.types import Array, Float, Int, Tokens

SPARSE = 0.1
"""A key whose weight is less than this part of an equal share is hardly attended to."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Statistics:
    """One number for every query; all zero for a query without keys.

    energy: mean |score| over its allowed pairs (the energy of natural attention).
    pairs: number of its allowed pairs.
    entropy: of its weights, in nats.
    distance: mean |t - s| under its weights, in tokens.
    largest: its largest weight.
    first: its weight on key 0.
    diagonal: its weight on the key at its own position.
    sparsity: the part of its keys (see `statistics`) with less than `SPARSE` of an equal share of them.
    mean, square: mean score and mean squared score over its allowed pairs.
    """

    energy: Float[Array, "B H T"]
    pairs: Float[Array, "B H T"]
    entropy: Float[Array, "B H T"]
    distance: Float[Array, "B H T"]
    largest: Float[Array, "B H T"]
    first: Float[Array, "B H T"]
    diagonal: Float[Array, "B H T"]
    sparsity: Float[Array, "B H T"]
    mean: Float[Array, "B H T"]
    square: Float[Array, "B H T"]


def statistics(
    q: Tokens,
    k: Tokens,
    lse: Float[Array, "B H T"],
    *,
    score: Any = Dot(),  # noqa: B008 (an immutable value)
    bias: Any = None,
    mask: Any = None,
    offset: int | Int[Array, ""] = 0,
    keys: Int[Array, "b h T"] | None = None,
) -> Statistics:
    """Statistics of the weights that `attend` computed for the same arguments, given the lse that it returned.

    Gradients are stopped. O(T) memory. Arguments as in `jattn.core.attend`, dropout left out, and

    keys: how many keys sparsity is a part of, for each query; more than bias and mask leave it, if a mechanism hides
      some by its own choice. None = S.
    """
    if keys is None:
        keys = jnp.full((1, 1, lse.shape[2]), jax.tree.leaves(k)[0].shape[2])
    q, k, lse, score, bias, mask = jax.lax.stop_gradient((q, k, lse, score, bias, mask))
    return of_pairs(_by_blocks, {"tokens": q, "lse": lse, "keys": keys}, k, score, bias, mask, offset)


def _by_blocks(call: Call) -> Statistics:
    lse, keys = call.q["lse"], call.q["keys"]
    call = dataclasses.replace(call, q=call.q["tokens"])
    grid = blocks.grid(call.queries, call.keys)
    view = blocks.View(grid, call, blocks.lag_table(call, grid), call.offset)
    reach = blocks.union(call.reach())
    tokens = grid.query_blocks * grid.query_block
    precise = lse.dtype
    lse = blocks.Slices(blocks.padded(jnp.where(lse == -jnp.inf, jnp.inf, lse), tokens, value=jnp.inf), tokens)
    keys = blocks.Slices(keys, tokens)

    def query_block(i: Array, rows: tuple[Array, ...]) -> tuple[Array, ...]:
        q, lse_block = view.queries(i), call.without_ones(lse.block(i, grid.query_block))
        visible = jnp.maximum(call.without_ones(keys.block(i, grid.query_block)), 1)
        little = SPARSE / visible[..., None]

        def key_block(j: Array, carry: tuple) -> tuple:
            energy, pairs, surprise, distance, largest, first, diagonal, attended, total, square = carry
            k, _ = view.keys(j)
            scores = view.scores(call.score, q, k, i, j)
            logits = view.logits(scores, q, k, i, j)
            allowed = logits > -jnp.inf
            scores = jnp.where(allowed, scores, 0.0)
            log_weights = jnp.where(allowed, logits - lse_block[..., None], 0.0)
            weights = jnp.where(allowed, jnp.exp(log_weights), 0.0)
            q_pos, k_pos = view.positions(i, j)
            lag = jnp.broadcast_to(jnp.abs(q_pos[:, None] - k_pos[None, :]), weights.shape)
            return (
                energy + jnp.abs(scores).sum(-1),
                pairs + allowed.sum(-1),
                surprise - (weights * log_weights).sum(-1),
                distance + (weights * lag).sum(-1),
                jnp.maximum(largest, weights.max(-1)),
                first + jnp.where(j == 0, weights[..., 0], 0.0),
                diagonal + jnp.where(lag == 0, weights, 0.0).sum(-1),
                attended + (weights >= little).sum(-1),
                total + scores.sum(-1),
                square + jnp.square(scores).sum(-1),
            )

        zero = call.without_ones(jnp.zeros((*call.heads, grid.query_block), precise))
        visited = (0, 1) if grid.is_one_block else blocks.key_blocks_of(grid, i, call.offset, reach)
        sums = blocks.in_turn(*visited, key_block, (zero,) * 10)
        energy, pairs, *of_weights, attended, total, square = sums
        energy, total, square = (x / jnp.maximum(pairs, 1) for x in (energy, total, square))
        sparsity = jnp.where(pairs > 0, 1 - attended / visible, 0.0)
        found = jax.tree.map(call.with_ones, (energy, pairs, *of_weights, sparsity, total, square))
        return blocks.written(rows, found, i * grid.query_block)

    rows = (jnp.zeros((*call.heads, tokens), precise),) * len(dataclasses.fields(Statistics))
    rows = blocks.in_turn(0, grid.query_blocks, query_block, rows)
    return Statistics(*(call.ungroup(row[:, :, :, : grid.queries]) for row in rows))


def mean_energy(found: Statistics) -> Float[Array, ""]:
    """Mean |score| over all allowed pairs of all queries, heads and examples."""
    pairs = found.pairs.sum()
    return (found.energy * found.pairs).sum() / jnp.maximum(pairs, 1.0)
