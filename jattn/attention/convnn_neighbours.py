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
from jattn.attention.convnn_convolution import Convolution
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
    """Best first: indices among the candidates, and whether they exist.

    nearness: how near they are, where the backward pass is not to find out from what it looks up.
    """

    index: Int[Array, "B H T n"]
    found: Bool[Array, "B H T n"]
    nearness: Float[Array, "B H T n"] | None = None


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
    """The `count` nearest candidates."""
    return Neighbours(*core.nearest(pairs.rows, pairs.columns, count, score=pairs.score, mask=pairs.mask))


def released(pairs: Pairs, count: int, magnitude: Magnitude, *, sampled: bool) -> Neighbours:
    """As the released code: from the whole matrix, where sampled candidates are hidden from themselves in vain."""
    score = core.Distance(guarded=False) if magnitude == "euclidean" else pairs.score
    values = core.score_matrix(pairs.rows, pairs.columns, score=score, mask=pairs.mask)
    if sampled:
        own = pairs.rows["place"][..., :, None] == pairs.columns["place"][..., None, :]
        values = jnp.where(own & (values != -jnp.inf), _RELEASED_SELF[magnitude], values)
    index, found = core.best(jax.lax.stop_gradient(values), count)
    return Neighbours(index, found, jnp.take_along_axis(values, index, -1))


def own_exists(inputs: Inputs, tokens: tuple[int, int, int]) -> Bool[Array, "B H T 1"]:
    """Which of B H T tokens are real, and so a neighbour of their own."""
    real = jnp.ones((1, 1, 1), bool)
    if inputs.query_mask is not None:
        real = (inputs.query_mask != 0)[:, None]
    if inputs.pair_mask is not None:
        real = jnp.diagonal(inputs.pair_mask, axis1=2, axis2=3)
    return jnp.broadcast_to(real[..., None], (*tokens, 1))


@dataclasses.dataclass(frozen=True)
class Ranks:
    """What a call knows of every token's K neighbours: which they are, and how to weigh them.

    best: without the token itself.
    slot, found: with it, where it is its own first neighbour.
    """

    magnitude: Magnitude
    normalise: bool
    pairs: Pairs
    best: Neighbours
    slot: Int[Array, "B H T K"]
    found: Bool[Array, "B H T K"]

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        pairs: Pairs,
        best: Neighbours,
        chosen: Candidates | None,
        magnitude: Magnitude,
        *,
        own: bool,
        normalise: bool,
    ) -> "Ranks":
        """The best candidates as slots, after the token itself if `own`."""
        slot, found = best.index, best.found
        if chosen is not None:
            slots = jnp.broadcast_to(chosen.slot, (slot.shape[0], chosen.slot.shape[1]))
            slot = jax.vmap(lambda slots, index: slots[index])(slots, slot)
        if own:
            place = jnp.broadcast_to(pairs.rows["place"][..., None], (*slot.shape[:3], 1))
            slot = jnp.concatenate([place, slot], 3)
            found = jnp.concatenate([own_exists(inputs, found.shape[:3]), found], 3)
        return cls(magnitude, normalise, pairs, best, slot, found)

    def convolved(self, values: Float[Array, "B H S c"], convolution: Convolution) -> Float[Array, "B H T o"]:
        """The convolution over each token's weighted neighbours."""

        def of_head(ranks: dict[str, Array], tokens: dict[str, Array], convolution: Convolution) -> Array:
            values = tokens["values"]
            return convolution(self._weights(ranks, tokens).astype(values.dtype), core.gather(values, ranks["slot"]))

        ranks, tokens = self._looked_up()
        tokens["values"] = values
        return core.in_pieces(of_head, ranks, tokens, convolution, self.slot.shape[-1] * values.shape[-1])

    def weights(self) -> Float[Array, "B H T K"]:
        """The weights of the ranks; 0 where there is no neighbour."""
        numbers = self.slot.shape[-1] * self.pairs.columns["features"].shape[-1]
        return core.in_pieces(lambda ranks, tokens, _: self._weights(ranks, tokens), *self._looked_up(), None, numbers)

    def _looked_up(self) -> tuple[dict[str, Array], dict[str, Array]]:
        ranks = {"slot": self.slot, "found": self.found}
        if self.best.nearness is not None:
            return ranks | {"nearness": self.best.nearness}, {}
        of_tokens = {"features": self.pairs.rows["features"], "index": self.best.index}
        return ranks | of_tokens, {"features": self.pairs.columns["features"]}

    def _weights(self, ranks: dict[str, Array], tokens: dict[str, Array]) -> Float[Array, "t K"]:
        """Of one head's tokens."""
        found, nearness = ranks["found"], ranks.get("nearness")
        if nearness is None:
            nearness = _nearness(self.pairs.score, ranks["features"], core.gather(tokens["features"], ranks["index"]))
        if found.shape[1] > nearness.shape[1]:
            own = jnp.full_like(nearness, -1.0 if self.magnitude == "euclidean" else 1.0, shape=(len(found), 1))
            nearness = jnp.concatenate([own, nearness], 1)
        if self.normalise:
            return softmax(jnp.where(found, nearness, -jnp.inf))[0]
        return jnp.where(found, 1 / (_SMALL - nearness) if self.magnitude == "euclidean" else nearness, 0.0)


def _nearness(score: Any, k: Float[Array, "t D"], q: Float[Array, "t n D"]) -> Float[Array, "t n"]:
    """Of tokens to their own candidates. Distances are those of differences, which rounding does not make negative."""
    precise = jnp.promote_types(jnp.promote_types(k.dtype, q.dtype), jnp.float32)
    if isinstance(score, core.Distance):
        return -core.root(jnp.sum(jnp.square(k[:, None].astype(precise) - q.astype(precise)), -1))
    return score.scale * jnp.einsum("td,tnd->tn", k, q, preferred_element_type=precise)


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


def statistics(
    pairs: Pairs, slot: Int[Array, "B H T K"], weights: Float[Array, "B H T K"], keys: Int[Array, "b h T"]
) -> core.Statistics:
    """Energy, pairs, mean and square over all candidates; the others of the neighbours' shares in the sum of |weights|.

    keys: as in `core.statistics`.
    """
    slot, weights = jax.lax.stop_gradient((slot, weights))
    no_lse = jnp.zeros(weights.shape[:3], weights.dtype)
    rows = core.statistics(pairs.rows, pairs.columns, no_lse, score=pairs.score, mask=pairs.mask)
    total = jnp.sum(jnp.abs(weights), -1, keepdims=True)
    shares = jnp.abs(weights) / jnp.where(total > 0, total, 1.0)
    distance = jnp.abs(pairs.rows["place"][..., None] - slot)
    visible = jnp.maximum(keys, 1)
    attended = jnp.sum(shares >= core.SPARSE / visible[..., None], -1)
    return dataclasses.replace(
        rows,
        entropy=-jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), 0.0), -1),
        distance=jnp.sum(shares * distance, -1),
        largest=jnp.max(shares, -1),
        first=jnp.sum(jnp.where(slot == 0, shares, 0.0), -1),
        diagonal=jnp.sum(jnp.where(distance == 0, shares, 0.0), -1),
        sparsity=jnp.where(total[..., 0] > 0, 1 - attended / visible, 0.0),
    )
