"""Softmax over the queries in place of the keys: what a key gives away, summed over all queries, is 1.

    P_ts = exp(score_ts) / sum_t' exp(score_t's)        out_t = sum_s P_ts v_s

Nothing of it needs the (T, S) matrix. The logarithm c_s of the denominator is the lse of one call with queries and
keys exchanged; a second call, with the score lowered by c_s, gives the rows of P divided by their sums, and the
logarithms of these sums as its lse.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core.attend import attend
from jattn.core.masks import Mask
from jattn.core.scores import Dot
from jattn.types import Array, Float, Int, Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Exchanged(Mask):
    """A score or a mask seen from the other side: what it says of (query, key), asked with (key, query)."""

    inner: Any

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Array:
        """The inner one's block, transposed."""
        return self.inner(k, q, k_pos, q_pos).T


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OverQueries:
    """Another score, less the logarithm of its sum over the queries: rider "over_queries" of k, Float[B H S]."""

    score: Any = dataclasses.field(default_factory=Dot)

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block."""
        return self.score(q, k, q_pos, k_pos) - k["over_queries"][None, :]


def over_queries(
    q: Tokens, k: Tokens, *, score: Any, mask: Any = None, implementation: str | None = None
) -> tuple[dict[str, Array], OverQueries]:
    """Keys and score of a call of `attend` whose `exp(logit)` is the softmax over the queries that the mask allows.

    As many key heads as query heads. The caller multiplies the call's output by `exp(lse)`.
    """
    queries = jax.tree.leaves(q)
    heads, batch = (max(leaf.shape[axis] for leaf in (*queries, *jax.tree.leaves(k))) for axis in (1, 0))
    no_values = jnp.zeros((batch, heads, queries[0].shape[2], 0))
    exchanged = {"score": Exchanged(score), "mask": None if mask is None else Exchanged(mask)}
    # It is -inf for a key that no query may attend to: the mask hides the key's pairs, whatever their score.
    _, normaliser = attend(k, q, no_values, **exchanged, implementation=implementation)
    k = k if isinstance(k, Mapping) else {"features": k}
    return {**k, "over_queries": normaliser}, OverQueries(score)
