"""Masks: which pairs may attend, where that depends on more than the lag.

A mask is a pytree dataclass written, like a score, for one head of one example,

    mask(q, k, q_pos, k_pos) -> Bool[t s]        True = may attend

It reads what it needs from riders of the tokens: `q = {"features": ..., "segment": ...}`. Its own array leaves, if
any, are parameters with a leading axis H or 1. Masks combine with `&`, and may offer `reach()` as biases do.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core.biases import Reach, intersection
from jattn.types import Array, Bool, Int, Tokens


class Mask:
    """Base of the masks here: they combine with `&`."""

    def __and__(self, other: Any) -> "All":
        return All((self, other))

    def __rand__(self, other: Any) -> "All":
        return All((other, self))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Padding(Mask):
    """Keys that are real tokens: a rider of k, Bool[B 1 S]."""

    rider: str = dataclasses.field(default="valid", metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True where the key is valid."""
        return jnp.broadcast_to(k[self.rider][None, :], (q_pos.size, k_pos.size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segments(Mask):
    """Packed sequences: rider "segment" of q, Int[B 1 T], and of k, Int[B 1 S]; pairs of one segment attend."""

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True where query and key belong to the same segment."""
        return q["segment"][:, None] == k["segment"][None, :]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Allowed(Mask):
    """A boolean array: rider "allowed" of q, Bool[B|1 H|1 T S], one row of keys for every query."""

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """The array's columns at the keys' positions."""
        return jnp.take(q["allowed"], k_pos, axis=1, mode="clip")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Past(Mask):
    """Keys at or before the query, for what wants a mask: as a bias, `Causal` also tells which blocks to leave out."""

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True where the key is not after the query."""
        return q_pos[:, None] >= k_pos[None, :]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class All(Mask):
    """Several masks at once; `Padding() & Segments()` makes one."""

    terms: tuple[Any, ...]

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True where every term allows the pair."""
        first, *others = (term(q, k, q_pos, k_pos) for term in self.terms)
        for other in others:
            first = first & other
        return first

    def reach(self) -> Reach:
        """The intersection of the terms' intervals."""
        return intersection(self.terms)
