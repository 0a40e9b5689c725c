"""Patterns that no interval of lags describes, computed in less time than by an ordinary call of the core.

A mechanism says which pairs attend by a bias and a mask; that is its definition, and what decoding, masks of pairs and
`weights` use. What is here gives the same in less time, by arranging tokens first. Each has functions `attend` and
`statistics` with the arguments of the core's, for `Attention.attend(..., how=...)`.

* `ResidueClasses`: lags are multiples of a step. Token t = step * p + c is token p of class c; tokens of different
  classes never attend to each other, so classes are examples of their own.
* `Summaries`: few keys, the summaries, are seen from everywhere, the others only from their own block. The two sets
  are attended to apart and merged.

`extents` tells where a token's sequence begins and ends, padding and packing considered.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jattn import core
from jattn.attention.base import Inputs
from jattn.attention.cost import Cost, attention
from jattn.types import Array, Float, Int, Shaped, Tokens

Extents = tuple[Int[Array, "b S"], Int[Array, "b S"]]


def extents(inputs: Inputs, keys: int) -> Extents:
    """First and last position of the sequence that each key belongs to, b = B or 1.

    A packed sequence is a run of equal segment ids; one with padding reaches from its first to its last real token
    (under a mask of pairs, a key is real if anybody may attend to it).
    """
    mask, positions = inputs.key_mask, jnp.arange(keys)[None]
    if inputs.pair_mask is not None:
        mask = inputs.pair_mask.any((1, 2))
    if mask is None:
        return jnp.zeros((1, keys), jnp.int32), jnp.full((1, keys), keys - 1, jnp.int32)
    if mask.dtype == jnp.bool_:
        first, last = jnp.argmax(mask, 1), keys - 1 - jnp.argmax(mask[:, ::-1], 1)
        return jnp.broadcast_to(first[:, None], mask.shape), jnp.broadcast_to(last[:, None], mask.shape)
    border = jnp.pad(mask[:, 1:] != mask[:, :-1], ((0, 0), (1, 1)), constant_values=True)
    first = jax.lax.cummax(jnp.where(border[:, :-1], positions, 0), axis=1)
    last = jax.lax.cummin(jnp.where(border[:, 1:], positions, keys - 1), axis=1, reverse=True)
    return first, last


def of_queries(inputs: Inputs, of_keys: Array) -> Array:
    """What the queries among the keys have, along axis 1: all of it, or in decoding that of the new tokens."""
    return jax.lax.dynamic_slice_in_dim(of_keys, inputs.offset, inputs.x.shape[1], axis=1)


def fold(x: Shaped[Array, "B H T ..."], classes: int) -> Shaped[Array, "N H L ..."]:
    """Residue classes of tokens as examples, (B, H, T, ...) to (B * classes, H, ceil(T / classes), ...)."""
    batch, heads, length, *rest = x.shape
    rows = -(-length // classes)
    x = jnp.pad(x, [(0, rows * classes - length if axis == 2 else 0) for axis in range(x.ndim)])
    x = jnp.moveaxis(x.reshape(batch, heads, rows, classes, *rest), 3, 1)
    return x.reshape(batch * classes, heads, rows, *rest)


def unfold(x: Shaped[Array, "N H L ..."], classes: int, length: int) -> Shaped[Array, "B H T ..."]:
    """The `length` tokens in their order again."""
    batch, heads, rows, *rest = x.shape
    x = jnp.moveaxis(x.reshape(batch // classes, classes, heads, rows, *rest), 1, 3)
    return x.reshape(batch // classes, heads, rows * classes, *rest)[:, :, :length]


@dataclasses.dataclass(frozen=True)
class ResidueClasses:
    """Attention within residue classes: every lag that bias or mask allow is a multiple of `step`.

    Masks may depend on positions by their difference alone, and queries are the keys' own tokens, from the first on.
    """

    step: int

    def cost(self, length: int, *, batch: int, **options: Any) -> Cost:
        """`jattn.attention.cost.attention` of every class."""
        classes = self._count(length)
        rows = -(-length // classes)
        return attention(rows, rows, batch=batch * classes, **options)

    def attend(
        self, q: Tokens, k: Tokens, v: Float[Array, "B K S E"], *, dropout: Any, implementation: Any, **terms: Any
    ) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
        """`core.attend` of every class."""
        length = v.shape[2]
        q, k, terms = self._classes(q, k, terms, v.shape[0], length)
        found = core.attend(q, k, fold(v, self._count(length)), **terms, dropout=dropout, implementation=implementation)
        return jax.tree.map(lambda x: unfold(x, self._count(length), length), found)

    def statistics(
        self,
        q: Tokens,
        k: Tokens,
        lse: Float[Array, "B H T"],
        *,
        keys: Int[Array, "b h T"] | None = None,
        **terms: Any,
    ) -> core.Statistics:
        """`core.statistics` of every class."""
        batch, _, length = lse.shape
        classes = self._count(length)
        q, k, terms = self._classes(q, k, terms, batch, length)
        keys = jnp.full((batch, 1, length), length) if keys is None else keys
        keys = fold(jnp.broadcast_to(keys, (batch, *keys.shape[1:])), classes)
        found = core.statistics(q, k, fold(lse, classes), **terms, keys=keys)
        holds_first = (jnp.arange(batch * classes) % classes == 0)[:, None, None]
        found = dataclasses.replace(
            found, distance=classes * found.distance, first=jnp.where(holds_first, found.first, 0.0)
        )
        return jax.tree.map(lambda x: unfold(x, classes, length), found)

    def _count(self, length: int) -> int:
        return max(1, min(self.step, length))  # with more classes than tokens some would be empty

    def _classes(
        self, q: Tokens, k: Tokens, terms: dict[str, Any], batch: int, length: int
    ) -> tuple[Tokens, Tokens, dict[str, Any]]:
        """q, k and terms of the folded call."""
        classes = self._count(length)
        bias, mask = terms["bias"], terms["mask"]
        terms = terms | {
            "bias": None if bias is None else core.StretchedBias(bias, classes),
            "mask": None if mask is None else core.StretchedMask(mask, classes),
        }
        if length % classes:  # shorter classes end with a token that is none
            k = k if isinstance(k, Mapping) else {"features": k}
            k = {**k, "present": jnp.ones((1, 1, length), bool)}
            present = core.Padding("present")
            terms["mask"] = present if terms["mask"] is None else present & terms["mask"]

        def folded(leaf: Array) -> Array:
            return fold(jnp.broadcast_to(leaf, (batch, *leaf.shape[1:])), classes)

        return jax.tree.map(folded, q), jax.tree.map(folded, k), terms


@dataclasses.dataclass(frozen=True)
class Summaries:
    """Attention within blocks and to the summaries of others, as `core.Blocks(size, causal)` among the masks says.

    Within blocks it is a band of lags; between blocks, the summaries alone are keys. `count`: of `size` tokens in a
    row from a block's first on, how many are summaries at most.
    """

    size: int
    count: int
    causal: bool

    statistics = staticmethod(core.statistics)

    def cost(self, length: int, *, batch: int, heads: int, values: int, causal: bool, **options: Any) -> Cost:
        """`jattn.attention.cost.attention` of both parts, and their merging."""
        options |= {"batch": batch, "heads": heads, "values": values}
        within = attention(length, length, causal=causal, **options)
        summaries = length * self.count // self.size
        merging = Cost(0, (summaries > 0) * batch * heads * length * (3 * values + 10), 0)
        return within + attention(length, summaries, causal=False, **options) + merging

    def attend(
        self, q: Tokens, k: Tokens, v: Float[Array, "B K S E"], *, bias: Any, mask: Any, dropout: Any, **terms: Any
    ) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
        """`core.attend` in two parts, merged by their lse."""
        within = core.attend(q, k, v, bias=bias, mask=self._part("within") & mask, dropout=dropout, **terms)
        batch, _, length = v.shape[:3]
        summaries = length * self.count // self.size
        if summaries == 0:
            return within
        chosen = jnp.broadcast_to(k["summary"][:, 0], (batch, length))
        places = jax.vmap(lambda row: jnp.nonzero(row, size=summaries, fill_value=length)[0])(chosen)

        def gathered(leaf: Array) -> Array:
            leaf = jnp.broadcast_to(leaf, (batch, *leaf.shape[1:]))
            index = places.reshape(batch, 1, summaries, *(1,) * (leaf.ndim - 3))
            return jnp.take_along_axis(leaf, index, axis=2, mode="fill", fill_value=0)

        if dropout is not None:  # positions of summaries are not those of the keys they are among
            dropout = dataclasses.replace(dropout, seed=dropout.seed ^ jnp.uint32(1))
        between = core.attend(
            q, jax.tree.map(gathered, k), gathered(v), mask=self._part("between") & mask, dropout=dropout, **terms
        )
        return core.merged([within, between])

    def _part(self, part: str) -> core.Blocks:
        return core.Blocks(self.size, self.causal, part)
