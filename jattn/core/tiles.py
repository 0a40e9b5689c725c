"""What a fused kernel does with one tile of one head: t queries and s keys.

Written on the shapes that scores, biases and masks are written for; a kernel evaluates what was traced (see
`jattn.core.powers_of_two`). Token leaves and parameters are traced in float32, whatever they are stored in, so that
their gradients are.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from jattn.core.call import Call
from jattn.core.plan import is_smooth
from jattn.types import Array, Float, Int, Tokens

LOG2E = math.log2(math.e)
"""Kernels take powers of two, which the hardware has, of logits times this."""

QUERY, KEY, HEAD = "query", "key", "head"
"""What a leaf belongs to: the tokens of queries, those of keys, or the head (parameters, and what all tokens share)."""


class Tile(NamedTuple):
    """A call's arguments for one tile of one head of one example."""

    q: Tokens
    k: Tokens
    score: Any
    bias: Any
    mask: Any
    dropout: Any
    offset: Any
    example: Any
    head: Any
    v: Any


_OWNERS = Tile(QUERY, KEY, *(HEAD,) * 7, KEY)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What is static of a call.

    structure: of a `Tile`. Of each of its leaves
    owners: what it belongs to,
    per_head: its shape without batch, heads and tokens,
    dtypes: what it is stored in,
    learned: whether it has a gradient.
    queries, keys: how many there are.
    """

    structure: Any
    owners: tuple[str, ...]
    per_head: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    learned: tuple[bool, ...]
    queries: int
    keys: int

    @property
    def values(self) -> int:
        """Position of the values among the leaves: the last."""
        return len(self.owners) - 1

    def of_tile(self, t: int, s: int) -> list[jax.ShapeDtypeStruct]:
        """The leaves of one tile, as they are traced."""
        tokens = {QUERY: (t,), KEY: (s,), HEAD: ()}
        return [
            jax.ShapeDtypeStruct((*tokens[owner], *shape), _traced_as(dtype))
            for owner, shape, dtype in zip(self.owners, self.per_head, self.dtypes, strict=True)
        ]

    def learned_by(self, owner: str) -> list[int]:
        """Positions of the leaves of this owner that have gradients."""
        return [index for index, learned in enumerate(self.learned) if learned and self.owners[index] == owner]

    def gradients(self, of_keys: bool) -> list[int]:
        """Positions of the leaves whose gradients `backward_tile` has, in its order."""
        return self.learned_by(KEY) if of_keys else self.learned_by(HEAD) + self.learned_by(QUERY)

    def open(self, leaves: list) -> Tile:
        """The arguments that these leaves are of."""
        return self.structure.unflatten(leaves)


def _traced_as(dtype: Any) -> Any:
    return jnp.dtype(jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype


def parts_of(call: Call) -> tuple[list[Array], Parts]:
    """A call's leaves, their first three axes B, K and G or 1 in their place, and what is static of it."""
    batch, key_heads, per_key = call.heads

    def by_head(leaf: Array) -> Array:
        """A bias's leaf (H or 1 first) for every example and head; of one head, it has a leading axis of 1."""
        leaf = jnp.broadcast_to(jnp.asarray(leaf)[None], (batch, key_heads * per_key, *leaf.shape[1:]))
        return leaf.reshape(*call.heads, 1, *leaf.shape[2:])

    def of_all(leaf: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(leaf), call.heads)

    of_call = Tile(
        call.q, call.k, call.score, call.bias, call.mask, call.dropout, call.offset, call.example, call.head, call.v
    )
    changes = {"bias": by_head, "dropout": of_all, "offset": of_all, "example": of_all, "head": of_all}
    has_gradient = ("q", "k", "score", "bias", "v")
    leaves, owners, learned = [], [], []
    for name, owner, tree in zip(Tile._fields, _OWNERS, of_call, strict=True):
        found = [changes.get(name, lambda leaf: leaf)(leaf) for leaf in jax.tree.leaves(tree)]
        leaves += found
        owners += [owner] * len(found)
        learned += [name in has_gradient and is_smooth(leaf) for leaf in found]
    per_head = tuple(leaf.shape[3 if owner == HEAD else 4 :] for leaf, owner in zip(leaves, owners, strict=True))
    dtypes = tuple(leaf.dtype for leaf in leaves)
    structure = jax.tree.structure(of_call)
    return leaves, Parts(structure, tuple(owners), per_head, dtypes, tuple(learned), call.queries, call.keys)


class Untraceable(Exception):
    """A call that a kernel cannot compute, with the reason."""


def forward_tile(parts: Parts, t: int, s: int) -> ClosedJaxpr:
    """One step of the online softmax: (leaves, row, column, acc, largest, total) to the last three.

    row, column: places of the tile's first query and key. acc, largest, total: of each row, the sum of weighted values,
    the largest logit in units of log 2, and the sum of weights.
    """

    def step(leaves: list, row: Array, column: Array, acc: Array, largest: Array, total: Array) -> tuple:
        at = _positions(parts, leaves, t, s, row, column)
        logits = _logits(parts, leaves, *at) * LOG2E
        new_largest = jnp.maximum(largest, logits.max(1))
        finite = jnp.where(new_largest == -jnp.inf, 0.0, new_largest)
        weights = jnp.exp2(logits - finite[:, None])
        shrink = jnp.exp2(largest - finite)
        new = jnp.einsum("ts,se->te", _dropped(parts, leaves, *at, weights), leaves[parts.values])
        return acc * shrink[:, None] + new, new_largest, total * shrink + weights.sum(1)

    row = jax.ShapeDtypeStruct((t,), jnp.float32)
    return _traced(step, parts, t, s, _rows_of_values(parts, t), row, row)


def backward_tile(parts: Parts, t: int, s: int, of_keys: bool) -> ClosedJaxpr:
    """A tile's part of the gradients: (leaves, row, column, d_out, delta, lse) to a list.

    It has the gradients of the keys' leaves, values last, or else those of the leaves of head and queries. delta is
    <d_out, out> - d_lse; lse is in units of log 2, and infinite for rows without keys.
    """
    learned = [index for index in parts.gradients(of_keys) if index != parts.values]  # no score is a function of these

    def step(leaves: list, row: Array, column: Array, d_out: Array, delta: Array, lse: Array) -> list:
        at = _positions(parts, leaves, t, s, row, column)

        def logits_of(some: list) -> Array:
            return _logits(parts, _replaced(leaves, learned, some), *at)

        logits, pull = jax.vjp(logits_of, [leaves[index] for index in learned])
        weights = jnp.exp2(logits * LOG2E - lse[:, None])
        d_weights = jnp.einsum("te,se->ts", d_out, leaves[parts.values])
        (gradients,) = pull(weights * (_dropped(parts, leaves, *at, d_weights) - delta[:, None]))
        if of_keys:
            gradients.append(jnp.einsum("ts,te->se", _dropped(parts, leaves, *at, weights), d_out))
        return gradients

    row = jax.ShapeDtypeStruct((t,), jnp.float32)
    return _traced(step, parts, t, s, _rows_of_values(parts, t), row, row)


def _traced(step: Callable, parts: Parts, t: int, s: int, *rest: jax.ShapeDtypeStruct) -> ClosedJaxpr:
    place = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.make_jaxpr(step)(parts.of_tile(t, s), place, place, *rest)


def _rows_of_values(parts: Parts, t: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((t, *parts.per_head[parts.values]), jnp.float32)


def _replaced(leaves: list, places: list[int], new: list) -> list:
    leaves = list(leaves)
    for place, leaf in zip(places, new, strict=True):
        leaves[place] = leaf
    return leaves


def _positions(parts: Parts, leaves: list, t: int, s: int, row: Array, column: Array) -> tuple[Array, Array]:
    offset = parts.open(leaves).offset
    return offset + row + jnp.arange(t, dtype=jnp.int32), column + jnp.arange(s, dtype=jnp.int32)


def _logits(parts: Parts, leaves: list, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
    """Score plus bias, -inf where a pair may not attend."""
    tile = parts.open(leaves)
    logits = tile.score(tile.q, tile.k, q_pos, k_pos).astype(jnp.float32)
    if tile.bias is not None:
        bias = tile.bias(q_pos[:, None] - k_pos[None, :])
        if bias.shape[0] != 1:
            raise Untraceable(f"the bias of one head's parameters has {bias.shape[0]} heads")
        logits = logits + bias.reshape(q_pos.size, k_pos.size)
    if parts.keys % k_pos.size:
        logits = jnp.where((k_pos < parts.keys)[None, :], logits, -jnp.inf)
    if tile.mask is not None:
        logits = jnp.where(tile.mask(tile.q, tile.k, q_pos, k_pos), logits, -jnp.inf)
    return logits


def _dropped(
    parts: Parts, leaves: list, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"], weights: Float[Array, "t s"]
) -> Float[Array, "t s"]:
    """Weights after dropout."""
    tile = parts.open(leaves)
    if tile.dropout is None:
        return weights
    kept = tile.dropout.kept(tile.dropout.rows(tile.example, tile.head, q_pos), k_pos)
    return jnp.where(kept, weights / (1 - tile.dropout.rate), 0.0)
