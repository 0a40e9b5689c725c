"""Attention within a narrow band of lags: each block of queries meets all of its keys at once, in one softmax.

Where bias and mask say beforehand that only lags lo to hi matter, t queries in a row see t + hi - lo keys in a row. One
product then does what `blockwise` does in several, nothing is rescaled, the bias of a block is the same for every
block, and every size is known when compiling. Own backward pass, O(T) memory; see `jattn.core.blockwise` for the rest.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jattn.core import blocks
from jattn.core.biases import intersection
from jattn.core.call import Call, pair_allowed, pair_kept, pair_scores
from jattn.core.choice import Request
from jattn.core.derivatives import forward_mode_only, reverse_mode_only
from jattn.core.plan import Plan, add_slice, filled, is_smooth, smooth_leaves, smooth_vjp, zeros
from jattn.core.toeplitz import diagonal_sums, toeplitz
from jattn.types import Array, Float, Int, Tokens

NARROW = 128
"""Lags from which on a block has 64 queries rather than 32."""


@dataclasses.dataclass(frozen=True)
class Band:
    """The static part of a call: lengths, queries of a block, and the lags (lo, hi) within reach."""

    queries: int
    keys: int
    block: int
    lo: int
    hi: int

    @property
    def blocks(self) -> int:
        """Blocks that cover the queries."""
        return -(-self.queries // self.block)

    @property
    def width(self) -> int:
        """Keys that a block of queries meets."""
        return min(self.block + self.hi - self.lo, self.keys)

    @property
    def columns(self) -> int:
        """Columns of `biases`."""
        return 2 * self.width + self.hi - self.lo + self.block


def band(queries: int, keys: int, lo: int, hi: int) -> Band:
    """Blocks for lags from lo to hi."""
    return Band(queries, keys, min(32 if hi - lo < NARROW else 64, queries), lo, hi)


def banded_cannot(request: Request) -> str | None:
    """Why there is no band."""
    return None if _reach(request) else "bias and mask do not say beforehand which lags matter"


def banded_rather_not(request: Request) -> str | None:
    """Why blocks serve better."""
    reach = _reach(request)
    if reach and request.keys >= 2 * band(request.queries, request.keys, *reach).width:
        return None
    return "the lags that matter are no narrow band"


def _reach(request: Request) -> tuple[int, int] | None:
    lo, hi = intersection([part for part in (request.bias, request.mask) if part is not None])
    return (lo, hi) if isinstance(lo, int) and isinstance(hi, int) and lo <= hi else None


def banded(call: Call) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
    """Attention without the (T, S) matrix, for reaches whose ends are integers."""
    g = band(call.queries, call.keys, *call.reach())
    lags, learns_bias = None, any(map(is_smooth, jax.tree.leaves(call.bias)))
    if call.bias is not None:
        lags = call.bias(g.lo - g.width - g.block + 1 + jnp.arange(g.block + g.columns - 1))
        _, key_heads, per_key = call.heads
        lags = lags.reshape(1, *((1, 1) if lags.shape[0] == 1 else (key_heads, per_key)), lags.shape[-1])
        if learns_bias:  # one copy for each example and head before the custom derivative, as for scores
            lags = jnp.broadcast_to(lags, (*call.heads, lags.shape[-1]))
    leaves, structure = jax.tree.flatten((dataclasses.replace(call, bias=None), lags))
    plan = Plan(g, structure, tuple(map(is_smooth, leaves)), learns_bias)
    smooth, rest = plan.divide(leaves)
    out, lse = _attention(plan, [reverse_mode_only(leaf) for leaf in smooth], rest)
    return call.ungroup(out), call.ungroup(lse)


class View:
    """A call cut into blocks of queries and the keys within their reach.

    Near an end of the keys, those in a row that a block meets are not all within reach, and begin elsewhere relative to
    the block. So the biases of a block are a part of wider ones.
    """

    def __init__(self, band: Band, call: Call, lags: Array | None):
        self.band, self.call = band, call
        self._queries = blocks.padded(call.q, band.blocks * band.block)
        self._biases = None if lags is None else biases(band, lags)

    def queries(self, i: Array | int) -> Tokens:
        """Block i of the queries."""
        return blocks.block(self._queries, i, self.band.block)

    def first(self, i: Array | int) -> Int[Array, ""]:
        """Position of the first query of block i."""
        return self.call.offset + i * self.band.block

    def start(self, i: Array | int) -> Int[Array, ""]:
        """The first key that block i meets."""
        return jnp.clip(self.first(i) - self.band.hi, 0, self.band.keys - self.band.width)

    def keys(self, i: Array | int) -> tuple[Tokens, Float[Array, "B K w E"]]:
        """The keys that block i meets, and their values."""

        def met(leaf: Array) -> Array:
            return blocks.part(leaf, self.start(i), self.band.width, axis=3)

        k, v = jax.tree.map(met, (self.call.k, self.call.v))
        return k, v[:, :, 0]

    def positions(self, i: Array | int) -> tuple[Int[Array, " t"], Int[Array, " w"]]:
        """Positions of the queries of block i, and of the keys that it meets."""
        return self.first(i) + jnp.arange(self.band.block), self.start(i) + jnp.arange(self.band.width)

    def column(self, i: Array | int) -> Int[Array, ""]:
        """Where the biases of block i begin; those of a block that meets nothing within reach are -inf."""
        g = self.band
        return g.hi + g.width - jnp.clip(self.first(i) - self.start(i), g.lo - g.block, g.hi + g.width)

    def scores(self, score: Any, q: Tokens, k: Tokens, i: Array | int) -> Float[Array, "B K G t w"]:
        """Scores of the pairs of block i."""
        return pair_scores(score, self.call.heads, q, k, *self.positions(i))

    def logits(self, scores: Array, q: Tokens, k: Tokens, i: Array | int) -> Float[Array, "B K G t w"]:
        """Scores plus bias, -inf where a pair may not attend."""
        if self._biases is not None:
            scores = scores + jax.lax.dynamic_slice_in_dim(self._biases, self.column(i), self.band.width, axis=4)
        if self.call.mask is None:
            return scores
        allowed = pair_allowed(self.call.mask, self.call.heads, q, k, *self.positions(i))
        return jnp.where(allowed, scores, -jnp.inf)

    def dropped(self, weights: Array, i: Array | int) -> Float[Array, "B K G t w"]:
        """Weights after dropout."""
        dropout, call = self.call.dropout, self.call
        if dropout is None:
            return weights
        kept = pair_kept(dropout, call.heads, call.example, call.head, *self.positions(i))
        return jnp.where(kept, weights / (1 - dropout.rate), 0.0)


def biases(g: Band, lags: Float[Array, "B K G L"]) -> Float[Array, "B K G t c"]:
    """What queries of a block add: in row i and column j, the bias of lag i - j + hi + width."""
    return toeplitz(lags, g.block, g.columns)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: Plan, smooth: list, rest: list) -> tuple[Array, Array]:
    return _forward(plan, smooth, rest)[0]


def _forward(plan: Plan, smooth: list, rest: list) -> tuple[tuple[Array, Array], Any]:
    call, lags = plan.join(smooth, rest)
    g, view = plan.grid, View(plan.grid, call, lags)
    precise = jnp.promote_types(jnp.result_type(*smooth_leaves((call, lags))), jnp.float32)

    def query_block(i: Array, rows: tuple[Array, Array]) -> tuple[Array, Array]:
        q, (k, v) = view.queries(i), view.keys(i)
        logits = view.logits(view.scores(call.score, q, k, i), q, k, i)
        largest = logits.max(-1)
        largest = jnp.where(largest == -jnp.inf, 0.0, largest)
        weights = jnp.exp(logits - largest[..., None])
        total = weights.sum(-1)
        weights = view.dropped(weights, i).astype(v.dtype)
        out = jnp.einsum("bkgts,bkse->bkgte", weights, v, preferred_element_type=precise)
        some = jnp.where(total > 0, total, 1.0)
        lse = jnp.where(total > 0, largest + jnp.log(some), -jnp.inf)
        return blocks.written(rows, ((out / some[..., None]).astype(call.v.dtype), lse), i * g.block)

    shape = (*call.heads, g.blocks * g.block)
    rows = jnp.zeros((*shape, call.v.shape[-1]), call.v.dtype), jnp.zeros(shape, precise)
    rows = blocks.in_turn(0, g.blocks, query_block, rows)
    out, lse = (row[:, :, :, : g.queries] for row in rows)
    # Named inside the custom derivative, so that a remat policy can keep them and the loop is not run again.
    out, lse = checkpoint_name(out, "attention_out"), checkpoint_name(lse, "attention_lse")
    return (out, lse), (smooth, rest, out, lse)


def _backward(plan: Plan, residuals: Any, cotangents: tuple[Array, Array]) -> tuple[list, None]:
    smooth, rest, out, lse = residuals
    call, lags = plan.join(smooth, rest)
    g, view = plan.grid, View(plan.grid, call, lags)
    d_out, d_lse = cotangents
    delta = jnp.einsum("bkgte,bkgte->bkgt", d_out, out, preferred_element_type=lse.dtype) - d_lse
    tokens = g.blocks * g.block
    # A row without keys has lse = -inf and a padded one has none: +inf makes the weights of both exp(-inf) = 0.
    lse = blocks.padded(jnp.where(lse == -jnp.inf, jnp.inf, lse), tokens, value=jnp.inf)
    rows = (*blocks.padded((d_out, delta), tokens), lse)

    def query_block(i: Array, carry: tuple) -> tuple:
        queries, d_k, d_v, d_score, d_biases = carry
        q, (d_out, delta, lse) = blocks.block((queries, rows), i, g.block)
        k, v = view.keys(i)
        scores, pull = smooth_vjp(lambda score, q, k: view.scores(score, q, k, i), call.score, q, k)
        weights = jnp.exp(view.logits(scores, q, k, i) - lse[..., None])
        d_weights = jnp.einsum("bkgte,bkse->bkgts", d_out, v, preferred_element_type=lse.dtype)
        d_scores = weights * (view.dropped(d_weights, i) - delta[..., None])
        kept = view.dropped(weights, i).astype(v.dtype)
        new_v = jnp.einsum("bkgts,bkgte->bkse", kept, d_out, preferred_element_type=lse.dtype)
        new_score, new_q, new_k = pull(d_scores)
        queries = blocks.written(queries, filled(q, new_q), i * g.block)
        add = functools.partial(add_slice, start=view.start(i))
        d_k, d_v = jax.tree.map(add, (d_k, d_v), (new_k, new_v[:, :, None]))
        d_score = jax.tree.map(jnp.add, d_score, new_score)
        if plan.learns_bias:
            d_biases = add_slice(d_biases, d_scores, view.column(i), axis=4)
        return queries, d_k, d_v, d_score, d_biases

    d_biases = jnp.zeros((*call.heads, g.block, g.columns), lse.dtype) if plan.learns_bias else None
    # Each block of queries is read once, and its gradients are written in its place: one array of q's size less.
    carry = blocks.padded(call.q, tokens), zeros(call.k), *zeros(call.v), zeros(call.score), d_biases
    d_q, d_k, d_v, d_score, d_biases = blocks.in_turn(0, g.blocks, query_block, carry)
    gradients = dataclasses.replace(
        call,
        q=jax.tree.map(lambda leaf: leaf[:, :, :, : g.queries], d_q),
        k=filled(call.k, d_k),
        v=d_v.astype(call.v.dtype),
        score=filled(call.score, d_score),
        mask=jax.tree.map(jnp.zeros_like, call.mask),
    )
    d_lags = None if lags is None else jnp.zeros_like(lags)
    if plan.learns_bias:
        d_lags = diagonal_sums(d_biases).astype(lags.dtype)
    found, _ = plan.divide(jax.tree.leaves((gradients, d_lags)))
    return [forward_mode_only(leaf) for leaf in found], None


_attention.defvjp(_forward, _backward)
