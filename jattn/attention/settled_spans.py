"""Spans that have settled: which distances each head looks at is known beforehand (see `jattn.models.freeze_spans`).

A full pass computes heads of similar reach together, each group within a band of its own. Decoding gathers the keys
that are not masked, and no others.

In a full pass it is not worth gathering what a wave leaves of a span. Periods are no whole numbers, so keys that
several queries share lie nowhere in a row, and a sum over distances, each with its own product of shifted tokens, took
longer than all pairs of the band as soon as there were a dozen of them (`docs/findings.md`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn import core
from jattn.attention.base import with_riders
from jattn.types import Array, Float, PyTree, Tokens

Distances = tuple[tuple[int, ...], ...]

SIMILAR = 0.5
"""Heads are computed together whose reach is at least this share of the longest among them."""

FEW = 0.5
"""Keys are gathered if they are at most this share of those within reach."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Within(core.Bias):
    """Another bias at some distances, those of each head; others are out of sight.

    kept: Bool[H n], by head and distance. The n - 1 is also the reach, which is therefore known beforehand.
    """

    bias: Any
    kept: Any

    @classmethod
    def of(cls, bias: Any, distances: Distances) -> "Within":
        """The bias at these distances."""
        kept = np.zeros((len(distances), 1 + max(reaches(distances))), bool)
        for row, own in zip(kept, distances, strict=True):
            row[list(own)] = True
        return cls(bias, jnp.asarray(kept))

    def __call__(self, lag: Array) -> Float[Array, "H ..."]:
        """The other bias, -inf at distances that are not kept."""
        kept = jnp.take(self.kept, jnp.abs(lag), axis=1, mode="fill", fill_value=False)
        return jnp.where(kept, self.bias(lag), -jnp.inf)

    def reach(self) -> core.Reach:
        """The longest distance that any head keeps, both ways."""
        return 1 - self.kept.shape[1], self.kept.shape[1] - 1


def reaches(distances: Distances) -> list[int]:
    """The longest distance of each head; 0 for one that keeps none."""
    return [max(own, default=0) for own in distances]


@dataclasses.dataclass(frozen=True)
class Group:
    """Some heads, and the distances of each."""

    heads: tuple[int, ...]
    distances: Distances

    @property
    def reach(self) -> int:
        """The longest distance of all."""
        return max(reaches(self.distances))

    @property
    def gathers(self) -> bool:
        """Whether in decoding keys are gathered."""
        most = max(len(own) for own in self.distances)
        return 0 < most <= FEW * (self.reach + 1)


@dataclasses.dataclass(frozen=True)
class ByReach:
    """`core.attend` for heads that keep these distances, those of similar reach together.

    For `Attention.attend(..., how=...)`; there are as many key heads as query heads.
    """

    distances: Distances

    statistics = staticmethod(core.statistics)

    def groups(self) -> list[Group]:
        """Heads that are computed together, by falling reach."""
        ends, found = reaches(self.distances), []
        for head in sorted(range(len(ends)), key=ends.__getitem__, reverse=True):
            if found and ends[head] >= SIMILAR * ends[found[-1][0]]:
                found[-1].append(head)
            else:
                found.append([head])
        return [Group(tuple(heads), tuple(self.distances[head] for head in heads)) for heads in map(sorted, found)]

    def attend(
        self, q: Tokens, k: Tokens, v: Float[Array, "B H S E"], *, score: Any, bias: Any, mask: Any, **terms: Any
    ) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
        """`core.attend`, within each group's reach."""

        def within(group: Group, q: Tokens, k: Tokens, v: Array, **own: Any) -> tuple[Array, Array]:
            own["bias"] += core.Window(group.reach, group.reach)
            return core.attend(q, k, v, **own, **terms)

        return self._by_group(within, q, k, v, score=score, bias=bias, mask=mask)

    def decoded(
        self, q: Tokens, k: Tokens, v: Float[Array, "B H S E"], *, score: Any, bias: Any, mask: Any, offset: Any
    ) -> Float[Array, "B H 1 E"]:
        """The output of one query, with the keys of its heads' distances gathered where that pays."""

        def of_group(group: Group, q: Tokens, k: Tokens, v: Array, **own: Any) -> Array:
            if not group.gathers:
                own["bias"] += core.Window(group.reach, 0)
                return core.attend(q, k, v, **own, offset=offset)[0]
            return _gathered(group, q, k, v, **own, offset=offset)

        return self._by_group(of_group, q, k, v, score=score, bias=bias, mask=mask)

    def _by_group(self, function: Callable[..., PyTree], *tokens: PyTree, **terms: PyTree) -> PyTree:
        """What the function gives for each group, joined along the heads' axis 1."""
        heads, groups = len(self.distances), self.groups()

        def of(group: Group, tree: PyTree, axis: int) -> PyTree:
            return _of_heads(tree, group.heads, heads, axis)

        parts = [
            function(
                group,
                *(of(group, part, 1) for part in tokens),
                **{name: of(group, part, 0) for name, part in terms.items()},
            )
            for group in groups
        ]
        joined = [head for group in groups for head in group.heads]
        order = [joined.index(head) for head in range(heads)]
        return jax.tree.map(lambda *found: _of_heads(jnp.concatenate(found, 1), order, heads, axis=1), *parts)


def _of_heads(tree: PyTree, heads: Sequence[int], count: int, axis: int) -> PyTree:
    """Leaves of these heads alone; those that heads share are left as they are."""

    def chosen(leaf: Array) -> Array:
        if leaf.shape[axis] != count or list(heads) == list(range(count)):
            return leaf
        return jnp.concatenate([jax.lax.slice_in_dim(leaf, head, head + 1, axis=axis) for head in heads], axis)

    return jax.tree.map(chosen, tree)


def _gathered(
    group: Group, q: Tokens, k: Tokens, v: Float[Array, "B H S E"], *, score: Any, bias: Any, mask: Any, offset: Any
) -> Float[Array, "B H 1 E"]:
    """Attention of one query to gathered keys. Masks read riders, not positions."""
    most = max(len(own) for own in group.distances)
    distances = jnp.asarray([own + (-1,) * (most - len(own)) for own in group.distances], jnp.int32)
    places = offset - distances
    added = jnp.take_along_axis(bias(jnp.arange(group.reach + 1)), jnp.maximum(distances, 0), axis=1)
    added = jnp.where((distances >= 0) & (places >= 0), added, -jnp.inf)

    def rows(leaf: Array) -> Array:
        leaf = jnp.broadcast_to(leaf, (leaf.shape[0], places.shape[0], *leaf.shape[2:]))
        return jax.vmap(lambda own, at: jnp.take(own, at, axis=1, mode="clip"), (1, 0), 1)(leaf, places)

    q = with_riders(q, {"added": added[None, :, None]})
    k, v = jax.tree.map(rows, (k, v))
    return core.attend(q, k, v, score=core.Added(score), mask=mask)[0]
