"""Scores: how strongly key s answers query t.

A score is a pytree dataclass whose array leaves are its parameters (leading axis H, or 1 if shared by the
heads) and whose other fields are static. It is written for one head of one example,

    score(q, k, q_pos, k_pos) -> Float[t s]

with q and k the block's tokens (leaves lead with t and s) and q_pos, k_pos their integer positions. The core
maps it over batch and heads, and differentiates it where needed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jattn.types import Array, Float, Int, Tokens


def features(tokens: Tokens) -> Any:
    """The features of tokens that are an array, or a dict with riders beside the entry "features"."""
    return tokens["features"] if isinstance(tokens, Mapping) else tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dot:
    """Dot-product attention, `scale * <q_t, k_s>` (Vaswani et al. 2017, equation 1).

    scale: None means D ** -0.5.
    """

    scale: float | None = dataclasses.field(default=None, metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block, accumulated and returned in float32 or better."""
        q, k = features(q), features(k)
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        precise = jnp.promote_types(jnp.promote_types(q.dtype, k.dtype), jnp.float32)
        return scale * jnp.einsum("td,sd->ts", q, k, preferred_element_type=precise)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Filled:
    """Another score, replaced by `value` where a mask says no: a query that may attend to nothing attends evenly.

    Several released codes mask so, with -1e9 or the smallest float, in place of leaving pairs out. Here -1e3 serves: it
    is as far out of reach of other scores, and the lse of a row of such scores keeps its digits (at -1e9 float32 has
    none left for the logarithm of their number, and recomputed weights would be 1 each).
    """

    score: Any
    mask: Any
    value: float = dataclasses.field(metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block."""
        return jnp.where(self.mask(q, k, q_pos, k_pos), self.score(q, k, q_pos, k_pos), self.value)
