"""How near candidates are, which of them are a token's neighbours, and what the neighbours weigh: ConvNN attention.

Nearness is the larger the nearer: the scaled dot product, the cosine, or minus the distance.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jattn import core
from jattn.attention.base import Inputs
from jattn.attention.convnn_candidates import Candidates, Places
from jattn.core.dense import softmax
from jattn.types import Array, Bool, Float, Int, Tokens

Magnitude = Literal["matmul", "cosine", "euclidean"]

_SMALL = 1e-8  # keeps the inverse of a distance finite
_RELEASED_SELF = {"matmul": -0.1, "cosine": -0.1, "euclidean": -1.1}


class Pairs(NamedTuple):
    """Tokens and candidates in the attention core's form: features with what masks read, score and mask."""

    rows: Tokens
    columns: Tokens
    score: Any
    mask: Any


class Neighbours(NamedTuple):
    """Best first: indices among the candidates, how near they are, and whether they exist."""

    index: Int[Array, "B H T n"]
    nearness: Float[Array, "B H T n"]
    found: Bool[Array, "B H T n"]

    def at(self, slot: Int[Array, "b M"]) -> "Neighbours":
        """The same with the candidates' slots as indices."""
        slot = jnp.broadcast_to(slot, (self.index.shape[0], slot.shape[1]))
        return self._replace(index=jax.vmap(lambda slot, index: slot[index])(slot, self.index))


def pairs(
    inputs: Inputs,
    at: Places,
    chosen: Candidates | None,
    k: Float[Array, "B H T D"],
    q: Float[Array, "B H M D"],
    score: Any,
    *,
    causal: bool,
    hides_own: bool,
) -> Pairs:
    """Which candidates may become neighbours of which tokens; `hides_own`: none of itself."""
    slot = jnp.arange(q.shape[2])[None] if chosen is None else chosen.slot
    rows = {"features": k, "place": (inputs.offset + jnp.arange(k.shape[2]))[None, None]}
    columns = {"features": q, "place": slot[:, None]}
    masks = [*([core.NotAfter()] if causal else []), *([core.NotOwn()] if hides_own else [])]
    valid = at.real if chosen is None else chosen.valid
    if valid is not None:
        columns["valid"] = valid[:, None]
        masks.append(core.Padding())
    if inputs.key_mask is not None and inputs.key_mask.dtype != jnp.bool_:
        rows["segment"] = inputs.query_mask[:, None]
        columns["segment"] = at_slots(inputs.key_mask[:, None], slot)
        masks.append(core.Segments())
    if inputs.pair_mask is not None:
        rows["allowed"] = at_slots(inputs.pair_mask.swapaxes(2, 3), slot).swapaxes(2, 3)
        masks.append(core.Allowed())
    return Pairs(rows, columns, score, core.All(tuple(masks)) if masks else None)


def scored(magnitude: Magnitude, k: Array, q: Array, scale: float) -> tuple[Array, Array, Any]:
    """Features of tokens and candidates, and the core's score of them that is their nearness."""
    if magnitude == "euclidean":
        return k, q, core.Distance()
    if magnitude == "matmul":
        return k, q, core.Dot(scale)
    return normalised(k), normalised(q), core.Dot(1.0)


def normalised(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """x at length 1, or shorter than that if it is shorter than 1e-12."""
    precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    length = core.root(jnp.sum(jnp.square(precise), -1, keepdims=True))
    return (precise / jnp.maximum(length, 1e-12)).astype(x.dtype)


def nearest(pairs: Pairs, count: int) -> Neighbours:
    """The `count` nearest candidates. Distances are those of differences, which rounding does not make negative."""
    index, found = core.nearest(pairs.rows, pairs.columns, count, score=pairs.score, mask=pairs.mask)
    k, q = pairs.rows["features"][..., None, :], core.gather(pairs.columns["features"], index)
    precise = jnp.promote_types(jnp.promote_types(k.dtype, q.dtype), jnp.float32)
    if isinstance(pairs.score, core.Distance):
        nearness = -core.root(jnp.sum(jnp.square(k.astype(precise) - q.astype(precise)), -1))
    else:
        nearness = pairs.score.scale * jnp.sum(k.astype(precise) * q.astype(precise), -1)
    return Neighbours(index, nearness, found)


def released(pairs: Pairs, count: int, magnitude: Magnitude, *, sampled: bool) -> Neighbours:
    """As the released code: from the whole matrix, where sampled candidates are hidden from themselves in vain."""
    score = core.Distance(guarded=False) if magnitude == "euclidean" else pairs.score
    values = core.score_matrix(pairs.rows, pairs.columns, score=score, mask=pairs.mask)
    if sampled:
        own = pairs.rows["place"][..., :, None] == pairs.columns["place"][..., None, :]
        values = jnp.where(own & (values != -jnp.inf), _RELEASED_SELF[magnitude], values)
    index, found = core.best(jax.lax.stop_gradient(values), count)
    return Neighbours(index, jnp.take_along_axis(values, index, -1), found)


def with_own(inputs: Inputs, pairs: Pairs, others: Neighbours, magnitude: Magnitude) -> Neighbours:
    """Each token as its own first neighbour, where it is a real one, at similarity 1 or distance 1."""
    real = jnp.ones((1, 1, 1), bool)
    if inputs.query_mask is not None:
        real = (inputs.query_mask != 0)[:, None]
    if inputs.pair_mask is not None:
        real = jnp.diagonal(inputs.pair_mask, axis1=2, axis2=3)
    shape = (*others.index.shape[:3], 1)
    own = pairs.rows["place"], jnp.full((1, 1, 1), -1.0 if magnitude == "euclidean" else 1.0), real
    own = (jnp.broadcast_to(first[..., None], shape) for first in own)
    return Neighbours(*(jnp.concatenate(both, 3) for both in zip(own, others, strict=True)))


def weights(magnitude: Magnitude, best: Neighbours, *, normalise: bool) -> Float[Array, "B H T K"]:
    """Weights of the ranks; 0 where there is no neighbour."""
    nearness, found = best.nearness, best.found
    if normalise:
        return softmax(jnp.where(found, nearness, -jnp.inf))[0]
    return jnp.where(found, 1 / (_SMALL - nearness) if magnitude == "euclidean" else nearness, 0.0)


def coordinates(
    at: Places, chosen: Candidates | None, tokens: int, offset: Int[Array, ""] | int | None, *, by_rank: bool
) -> tuple[Float[Array, "_ T"], Float[Array, "_ M"], Float[Array, "_ S"]]:
    """Coordinates of the tokens, of the candidates and of all slots.

    offset: the slot of the first token; None = the tokens are another sequence than the slots.
    by_rank: a sampled candidate has its rank among the candidates as position, as in the released code.
    """
    of_slots = _coordinate(at.position, at.length)
    if offset is None:
        of_tokens = _coordinate(jnp.arange(tokens)[None], tokens)
    else:
        of_tokens = jax.lax.dynamic_slice_in_dim(of_slots, offset, tokens, axis=1)
    if chosen is None:
        return of_tokens, of_slots, of_slots
    ranks = chosen.slot.shape[1]
    of_ranks = _coordinate(jnp.arange(ranks)[None], ranks)
    return of_tokens, of_ranks if by_rank else at_slots(of_slots[:, None], chosen.slot)[:, 0], of_slots


def _coordinate(position: Int[Array, "_ n"], length: Int[Array, "_ _"] | int) -> Float[Array, "_ n"]:
    """Positions 0 to length - 1 as -1 to 1."""
    return 2 * position / jnp.maximum(length - 1, 1) - 1.0


def extended(tokens: Float[Array, "B H n D"], coordinates: Float[Array, "b n"]) -> Float[Array, "B H n d"]:
    """Tokens with one more feature."""
    channel = jnp.broadcast_to(coordinates[:, None, :, None], (*tokens.shape[:3], 1))
    return jnp.concatenate([tokens, channel.astype(tokens.dtype)], -1)


def at_slots(x: Array, slot: Int[Array, "b M"]) -> Array:
    """x (B, H, S, ...) at slots of its third axis, those of each example or (b = 1) the same for all."""
    if slot.shape[0] == 1:
        return x[:, :, slot[0]]
    return jax.vmap(lambda x, slot: x[:, slot])(jnp.broadcast_to(x, (slot.shape[0], *x.shape[1:])), slot)


def matrix(slot: Int[Array, "B H T K"], weights: Float[Array, "B H T K"], slots: int) -> Float[Array, "B H T S"]:
    """The weights at their slots of all S; those of one slot add."""

    def row(slot: Array, weights: Array) -> Array:
        return jnp.zeros(slots, weights.dtype).at[slot].add(weights)

    return jax.vmap(jax.vmap(jax.vmap(row)))(slot, weights)


def statistics(pairs: Pairs, slot: Int[Array, "B H T K"], weights: Float[Array, "B H T K"]) -> core.Statistics:
    """Energy and pairs over all candidates; the others of the neighbours' shares in the sum of |weights|."""
    slot, weights = jax.lax.stop_gradient((slot, weights))
    no_lse = jnp.zeros(weights.shape[:3], weights.dtype)
    rows = core.statistics(pairs.rows, pairs.columns, no_lse, score=pairs.score, mask=pairs.mask)
    total = jnp.sum(jnp.abs(weights), -1, keepdims=True)
    shares = jnp.abs(weights) / jnp.where(total > 0, total, 1.0)
    distance = jnp.abs(pairs.rows["place"][..., None] - slot)
    return dataclasses.replace(
        rows,
        entropy=-jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), 0.0), -1),
        distance=jnp.sum(shares * distance, -1),
        largest=jnp.max(shares, -1),
        first=jnp.sum(jnp.where(slot == 0, shares, 0.0), -1),
    )
