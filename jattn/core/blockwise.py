"""Attention by blocks on any platform: online softmax, O(T) memory, its own backward pass.

Forward (Milakov & Gimelshein 2018; Rabe & Staats 2021) and backward (Dao et al. 2022, algorithm 4) visit only
blocks within reach. The backward pass recomputes a block's scores under `jax.vjp`, so scores and biases bring no
derivative of their own. Loop bounds are data: nothing recompiles when a learned reach shrinks.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jattn.core import blocks, by_example, by_head
from jattn.core.blocks import Grid, View
from jattn.core.call import Call
from jattn.core.cutting import divisor, numbers_at_a_time
from jattn.core.derivatives import forward_mode_only, reverse_mode_only
from jattn.core.plan import Plan, add_slice, filled, is_smooth, smooth_leaves, smooth_vjp, turned, zeros
from jattn.core.toeplitz import diagonal_sums
from jattn.types import Array, Float


def blockwise(call: Call) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
    """Attention without the (T, S) matrix."""
    grid = blocks.grid(call.queries, call.keys, *_sizes(call))
    table, learns_bias = blocks.lag_table(call, grid), any(map(is_smooth, jax.tree.leaves(call.bias)))
    if learns_bias:
        # As for the parameters of scores: one copy for each example and head before the custom derivative.
        table = jnp.broadcast_to(table, (*call.heads, grid.lags))
    bounds = jax.lax.stop_gradient((call.offset, by_head.reaches(call) or blocks.union(call.reach())))
    operands = dataclasses.replace(call, bias=None), table, bounds
    leaves, structure = jax.tree.flatten(operands)
    plan = Plan(grid, structure, tuple(map(is_smooth, leaves)), learns_bias)
    smooth, rest = plan.divide(leaves)
    out, lse = _attention(plan, [reverse_mode_only(leaf) for leaf in smooth], rest)
    return call.ungroup(out), call.ungroup(lse)


def _sizes(call: Call) -> tuple[int, int]:
    """Tokens of a block of queries and of keys: the larger, the better products use several cores, and the more pairs
    of a block are out of reach. Scores of rows, without features, have no products of their own."""
    lo, hi = call.reach()
    has_features = any(leaf.ndim > 4 for leaf in jax.tree.leaves(call.q))
    if min(call.queries, call.keys) >= (1024 if has_features else 2048) and (lo is None or hi is None):
        return 512, 256
    heads = math.prod(call.heads[1:])
    if lo is None and hi is None and (max(call.queries, call.keys) <= 256 or heads * 256**2 <= 2**18):
        return 256, 256
    return 128, 128


PAIRS = 2**19
"""Pairs of a block, of all heads that are computed at once on a CPU."""


def _heads_at_once(call: Call, g: Grid) -> int:
    """How many key heads are computed at once, so that no more of a block exists than a cache holds."""
    _, key_heads, per_key = call.heads
    return divisor(key_heads, numbers_at_a_time(PAIRS) // (per_key * g.query_block * g.key_block))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: Plan, smooth: list, rest: list) -> tuple[Array, Array]:
    return _forward(plan, smooth, rest)[0]


def _forward(plan: Plan, smooth: list, rest: list) -> tuple[tuple[Array, Array], Any]:
    call, table, (offset, reach) = plan.join(smooth, rest)
    g = plan.grid

    def by_heads(size: int, reach: tuple[Array, Array]) -> tuple[Array, Array]:
        of_examples = functools.partial(_rows, g, offset, size, reach)
        return by_example.each(of_examples, g.query_block * g.key_block, call, table)

    out, lse = by_head.each(by_heads, g, call, offset, reach, _heads_at_once(call, g))
    # Named inside the custom derivative, so that a remat policy can keep them and the loop is not run again.
    out, lse = checkpoint_name(out, "attention_out"), checkpoint_name(lse, "attention_lse")
    return (out, lse), (smooth, rest, out, lse)


def _rows(
    g: Grid, offset: Array, size: int, reach: tuple[Array, Array], call: Call, table: Array | None
) -> tuple[Float[Array, "B K G T E"], Float[Array, "B K G T"]]:
    """out and lse of the queries, of so many key heads at a time."""
    all_heads = View(g, call, table, offset)
    precise = jnp.promote_types(jnp.result_type(*smooth_leaves((call, table))), jnp.float32)

    def some_heads(part: Array, rows: tuple[Array, Array]) -> tuple[Array, Array]:
        view = all_heads.of_heads(part, size)
        call, own_reach = view.call, (reach[0][part], reach[1][part])

        def query_block(i: Array, rows: tuple[Array, Array]) -> tuple[Array, Array]:
            q = view.queries(i)

            def key_block(j: Array, carry: tuple) -> tuple:
                acc, largest, total = carry
                k, v = view.keys(j)
                logits = view.logits(view.scores(call.score, q, k, i, j), q, k, i, j)
                new_largest = jnp.maximum(largest, logits.max(-1))
                finite = jnp.where(new_largest == -jnp.inf, 0.0, new_largest)
                weights = jnp.exp(logits - finite[..., None])
                shrink = jnp.exp(largest - finite)
                total = total * shrink + weights.sum(-1)
                weights = view.dropped(weights, i, j).astype(v.dtype)
                new = call.product("bkgts,bkse->bkgte", weights, call.without_ones(v, 2), precise)
                return acc * shrink[..., None] + new, new_largest, total

            zeros = call.without_ones(jnp.zeros((*call.heads, g.query_block), precise))
            carry = jnp.zeros((*zeros.shape, call.v.shape[-1]), precise), zeros - jnp.inf, zeros
            visited = (0, 1) if g.is_one_block else blocks.key_blocks_of(g, i, offset, own_reach)
            acc, largest, total = blocks.in_turn(*visited, key_block, carry)
            some = jnp.where(total > 0, total, 1.0)
            lse = jnp.where(total > 0, largest + jnp.log(some), -jnp.inf)
            new = (acc / some[..., None]).astype(call.v.dtype), lse
            return blocks.written(rows, jax.tree.map(call.with_ones, new), i * g.query_block, view.first)

        return blocks.in_turn(0, g.query_blocks, query_block, rows)

    # Rows are written where they belong while the loop runs: stacking and moving them would cost two copies.
    shape = (*call.heads, g.query_blocks * g.query_block)
    rows = jnp.zeros((*shape, call.v.shape[-1]), call.v.dtype), jnp.zeros(shape, precise)
    out, lse = (row[:, :, :, : g.queries] for row in blocks.in_turn(0, reach[0].size, some_heads, rows))
    return out, lse


def _backward(plan: Plan, residuals: Any, cotangents: tuple[Array, Array]) -> tuple[list, None]:
    smooth, rest, *rows = residuals
    call, table, (offset, reach) = plan.join(smooth, rest)
    g = plan.grid
    of_leaves = *map(smooth_leaves, (call.q, call.k)), call.v, smooth_leaves(call.score)
    like = *of_leaves, table if plan.learns_bias else None

    def by_heads(size: int, reach: tuple[Array, Array]) -> tuple:
        of_examples = functools.partial(_gradients, plan, offset, size, reach)
        return by_example.each(of_examples, g.query_block * g.key_block, call, table, (*rows, *cotangents), like=like)

    d_q, d_k, d_v, d_score, d_table = by_head.each(by_heads, g, call, offset, reach, _heads_at_once(call, g))
    gradients = dataclasses.replace(
        call,
        q=filled(call.q, d_q),
        k=filled(call.k, d_k),
        v=d_v.astype(call.v.dtype),
        score=filled(call.score, d_score),
        mask=jax.tree.map(jnp.zeros_like, call.mask),
    )
    if table is not None:
        d_table = d_table.astype(table.dtype) if plan.learns_bias else jnp.zeros_like(table)
    found, _ = plan.divide(jax.tree.leaves((gradients, d_table, (offset, reach))))
    return [forward_mode_only(leaf) for leaf in found], None


def _gradients(
    plan: Plan,
    offset: Array,
    size: int,
    reach: tuple[Array, Array],
    call: Call,
    table: Array | None,
    rows: tuple[Array, ...],
) -> tuple[list, list, Array, list, Array | None]:
    """Gradients of the smooth leaves of q and k, of v, of the smooth leaves of the score, and of the table."""
    g = plan.grid
    all_heads = View(g, call, table, offset)
    out, lse, d_out, d_lse = rows
    delta = jnp.einsum("bkgte,bkgte->bkgt", d_out, out, preferred_element_type=lse.dtype) - d_lse
    tokens, keys = g.query_blocks * g.query_block, g.key_blocks * g.key_block
    # A row without keys has lse = -inf and a padded one has none: +inf makes the weights of both exp(-inf) = 0.
    lse = blocks.padded(jnp.where(lse == -jnp.inf, jnp.inf, lse), tokens, value=jnp.inf)
    rows = blocks.Slices((d_out, delta, lse), tokens)

    def some_heads(part: Array, carry: tuple) -> tuple:
        view = all_heads.of_heads(part, size)
        call, own_reach = view.call, (reach[0][part], reach[1][part])
        add = functools.partial(add_slice, first=view.first)

        def key_block(j: Array, carry: tuple) -> tuple:
            k, v = view.keys(j)

            def query_block(i: Array, carry: tuple) -> tuple:
                d_q, d_k, d_v, d_score, d_table = carry
                q, own = view.queries(i), view.read(rows, i, g.query_block)
                d_out, delta, lse = map(call.without_ones, own)
                scores, pull = smooth_vjp(lambda score, q, k: view.scores(score, q, k, i, j), call.score, q, k)
                weights = jnp.exp(view.logits(scores, q, k, i, j) - lse[..., None])
                d_weights = call.product("bkgte,bkse->bkgts", d_out, call.without_ones(v, 2), lse.dtype)
                d_scores = weights * (view.dropped(d_weights, i, j) - delta[..., None])
                kept = view.dropped(weights, i, j).astype(v.dtype)
                d_v = d_v + call.product("bkgte,bkgts->bkes", d_out, kept, lse.dtype)
                new_score, new_q, new_k = pull(d_scores)
                d_q = jax.tree.map(functools.partial(add, start=i * g.query_block), d_q, new_q)
                d_score, d_k = jax.tree.map(jnp.add, (d_score, d_k), (new_score, turned(new_k)))
                if plan.learns_bias:
                    d_table = _add_to_table(d_table, call.with_ones(d_scores), g, i, j)
                return d_q, d_k, d_v, d_score, d_table

            d_q, d_k, d_v, d_score, d_table = carry
            # Gradients of keys and values are summed turned, features by tokens: a product that reads its larger
            # operand, the block's weights, along columns is slower by a half.
            own_v = call.without_ones(jnp.zeros((*v.shape[:2], v.shape[3], v.shape[2]), lse.dtype), 2)
            carry = d_q, turned(zeros(k)), own_v, d_score, d_table
            visited = (0, 1) if g.is_one_block else blocks.query_blocks_of(g, j, offset, own_reach)
            d_q, own_k, own_v, d_score, d_table = blocks.in_turn(*visited, query_block, carry)
            own_v = call.with_ones(own_v.swapaxes(-2, -1), 2)[:, :, None]
            add_keys = functools.partial(add, start=j * g.key_block)
            d_k, d_v = jax.tree.map(add_keys, (d_k, d_v), (turned(own_k), own_v))
            return d_q, d_k, d_v, d_score, d_table

        *of_tokens, d_score, d_table = carry
        own_table = jnp.zeros(view.table.shape, lse.dtype) if plan.learns_bias else None
        carry = (*of_tokens, zeros(call.score), own_table)
        *of_tokens, own_score, own_table = blocks.in_turn(0, g.key_blocks, key_block, carry)
        add_heads = functools.partial(add_slice, start=view.first, axis=1)
        return (*of_tokens, *jax.tree.map(add_heads, (d_score, d_table), (own_score, own_table)))

    d_table = jnp.zeros(table.shape, lse.dtype) if plan.learns_bias else None
    of_queries, of_keys = zeros(blocks.padded(call.q, tokens)), zeros(blocks.padded(call.k, keys))
    carry = of_queries, of_keys, *zeros(blocks.padded(call.v, keys)), zeros(call.score), d_table
    d_q, d_k, d_v, d_score, d_table = blocks.in_turn(0, reach[0].size, some_heads, carry)
    d_q, d_k = ([leaf[:, :, :, :n] for leaf in leaves] for leaves, n in ((d_q, g.queries), (d_k, g.keys)))
    return d_q, d_k, d_v[:, :, :, : g.keys], d_score, d_table


_attention.defvjp(_forward, _backward)


def _add_to_table(d_table: Array, d_scores: Array, g: Grid, i: Array | int, j: Array | int) -> Array:
    """Adds a block's diagonal sums to the gradient of the table of biases."""
    return add_slice(d_table, diagonal_sums(d_scores), blocks.table_start(g, i, j))
