"""Where a token stands in its sequence, and which tokens ConvNN attention samples as candidates.

Candidates are positions in a sequence, and a sequence's length decides which: all tokens up to the last real one, one
segment of a packed row, or, where outputs may not depend on what comes later, `max_length`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jattn.core.dropout import mix
from jattn.types import Array, Bool, Int


class Places(NamedTuple):
    """Of S slots, b is B or 1 (the same for all examples).

    position: of a slot in its sequence.
    length: of that sequence.
    real: whether the slot holds a token; None = all do.
    segment: the sequences of a packed row; None = one sequence a row.
    fixed_length: `length`, where it is the same for all and known without looking at masks.
    """

    position: Int[Array, "b S"]
    length: Int[Array, "b s"]
    real: Bool[Array, "b S"] | None
    segment: Int[Array, "B S"] | None
    fixed_length: int | None


class Candidates(NamedTuple):
    """Slots of candidates, and whether each counts: a real token's, in range, and for the first time."""

    slot: Int[Array, "b M"]
    valid: Bool[Array, "b M"]


def released_places(slots: int, key_mask: Array | None) -> Places:
    """Where the tokens stand for the released code, which knows nothing of padding."""
    real = None if key_mask is None else key_mask != 0
    return Places(jnp.arange(slots)[None], jnp.full((1, 1), slots), real, None, slots)


def places(
    slots: int,
    key_mask: Bool[Array, "B S"] | Int[Array, "B S"] | None,
    pair_mask: Bool[Array, "B h T S"] | None,
    length: int | None,
) -> Places:
    """Where the tokens in `slots` slots stand; `length` None = sequences end with their last real token.

    A token that no pair of a pair mask contains is padding.
    """
    index = jnp.arange(slots)[None]
    if key_mask is not None and key_mask.dtype != jnp.bool_:
        position, lengths = jax.vmap(_ranked)(key_mask, jnp.broadcast_to(index, key_mask.shape))
        lengths = lengths if length is None else jnp.full((1, 1), length)
        return Places(position, lengths, key_mask != 0, key_mask, length)
    real = key_mask if pair_mask is None else pair_mask.any((1, 2))
    if length is None and real is not None:
        return Places(index, jnp.max(jnp.where(real, index + 1, 0), 1, keepdims=True), real, None, None)
    length = slots if length is None else length
    return Places(index, jnp.full((1, 1), length), real, None, length)


def spatial(at: Places, count: int, padding: int) -> Candidates:
    """`count` positions at equal distances, `padding` left out at both ends; fewer where positions coincide."""
    points = _points(at, count, padding)
    if at.segment is not None:
        inside = (points >= padding) & (points < at.length[..., None] - padding)
        return _members(at, jnp.any(inside & (points == at.position[..., None]), -1))
    points = points[:, 0]
    return _listed(at, points, (points >= padding) & (points < at.length - padding) & _first(points))


def random(at: Places, count: int, seed: Array | int) -> Candidates:
    """`count` random positions, of real tokens where the length is not fixed; the seed alone orders the positions."""
    slots = at.position.shape[1]
    span = slots if at.fixed_length is None else at.fixed_length
    priority = _priority(seed, span)
    if at.segment is not None and at.fixed_length is None:
        rank, _ = jax.vmap(_ranked)(at.segment, -priority[at.position])
        return _members(at, rank < count)
    if at.segment is None and at.fixed_length is None:
        priority = jnp.where(at.real, priority[None], -1)
    else:
        priority = priority[None]
    value, chosen = jax.lax.top_k(priority, min(count, span))
    if at.segment is not None:
        return _members(at, _among(at.position, chosen))
    return _listed(at, chosen, value >= 0)


def given(at: Places, positions: tuple[int, ...], *, distinct: bool = True) -> Candidates:
    """These positions, each once if `distinct`."""
    chosen = jnp.asarray(tuple(dict.fromkeys(positions)) if distinct else positions, jnp.int32)[None]
    if at.segment is not None:
        return _members(at, _among(at.position, chosen))
    return _listed(at, chosen, chosen < at.length)


def released_spatial(at: Places, count: int, padding: int) -> Candidates:
    """The released code's positions, repeated where there are more than fit, counted from the end if below 0."""
    points = _points(at, count, padding)[:, 0]
    return _listed(at, jnp.where(points < 0, points + at.length, points), jnp.ones_like(points, bool))


def released_random(at: Places, count: int, seed: Array | int) -> Candidates:
    """As many random positions as the released slice `permutation[:count]` has, which takes a count below 0."""
    slots = at.position.shape[1]
    chosen = jax.lax.top_k(_priority(seed, slots), len(range(slots)[:count]))[1][None]
    return _listed(at, chosen, jnp.ones_like(chosen, bool))


def spaced(lengths: np.ndarray, count: int, padding: int) -> np.ndarray:
    """linspace(padding, length - padding - 1, count) of every length, in float32, truncated: a row each.

    Counted from both ends as torch does. Rounding decides which positions come out, and compilers round otherwise
    (they fuse product and sum, and multiply by the inverse of `count - 1`): so this is computed here, not compiled.
    """
    first = np.full((lengths.size, 1), padding, np.float32)
    last = (lengths[:, None] - padding - 1).astype(np.float32)
    step = (last - first) / np.float32(max(count - 1, 1))
    index = np.arange(count)[None]
    ahead = index < max(count // 2, count == 1)
    steps = step * np.where(ahead, index, count - 1 - index).astype(np.float32)
    return np.trunc(np.where(ahead, first + steps, last - steps)).astype(np.int32)


def _points(at: Places, count: int, padding: int) -> Int[Array, "b s M"]:
    """`spaced` of the sequences' lengths: looked up among all that there can be, where they are not known."""
    if at.fixed_length is not None:
        return jnp.asarray(spaced(np.asarray([at.fixed_length]), count, padding))[None]
    slots = at.position.shape[1]
    return jnp.asarray(spaced(np.arange(slots + 1), count, padding))[at.length]


def _listed(at: Places, positions: Int[Array, "_ M"], valid: Bool[Array, "_ M"]) -> Candidates:
    """Candidates by position, where slots are positions."""
    slots = at.position.shape[1]
    slot = jnp.clip(positions, 0, slots - 1)
    valid = valid & (positions < slots)
    if at.real is None:
        return Candidates(slot, valid)
    shape = (at.real.shape[0], slot.shape[1])
    return Candidates(slot, valid & jnp.take_along_axis(at.real, jnp.broadcast_to(slot, shape), 1))


def _members(at: Places, chosen: Bool[Array, "B S"]) -> Candidates:
    """All slots, those that are chosen counting: in packed rows every sequence has candidates of its own."""
    return Candidates(jnp.arange(chosen.shape[1])[None], chosen & at.real)


def _among(position: Int[Array, "B S"], chosen: Int[Array, "1 M"]) -> Bool[Array, "B S"]:
    return jnp.any(position[..., None] == chosen[:, None], -1)


def _first(positions: Int[Array, "b M"]) -> Bool[Array, "b M"]:
    """True where a monotone row does not repeat."""
    return jnp.concatenate([jnp.ones_like(positions[:, :1], bool), positions[:, 1:] != positions[:, :-1]], 1)


def _priority(seed: Array | int, span: int) -> Int[Array, " p"]:
    """A hash of (seed, position), at least 0: which positions come first does not depend on how many there are."""
    positions = jnp.arange(span, dtype=jnp.uint32)
    hashed = mix(mix(jnp.asarray(seed, jnp.uint32)) ^ mix(positions + jnp.uint32(0x9E3779B9)))
    return (hashed >> 1).astype(jnp.int32)


def _ranked(segment: Int[Array, " S"], key: Int[Array, " S"]) -> tuple[Int[Array, " S"], Int[Array, " S"]]:
    """The rank of each slot's key among its segment's, ascending, and how many that segment has."""
    slots = jnp.arange(segment.size)
    ordered, _, order = jax.lax.sort((segment, key, slots), num_keys=2)
    start, stop = (jnp.searchsorted(ordered, segment, side=side) for side in ("left", "right"))
    return jnp.zeros_like(slots).at[order].set(slots) - start, stop - start
