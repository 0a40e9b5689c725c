"""Scores: how strongly key s answers query t.

A score is a pytree dataclass whose array leaves are its parameters (leading axis H, or 1 if shared by the
heads) and whose other fields are static. It is written for one head of one example,

    score(q, k, q_pos, k_pos) -> Float[t s]

with q and k the block's tokens (leaves lead with t and s) and q_pos, k_pos their integer positions. The core
maps it over batch and heads, and differentiates it where needed.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Penalized:
    """Another score, plus `value` where a mask says no."""

    score: Any
    mask: Any
    value: float = dataclasses.field(metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block."""
        return self.score(q, k, q_pos, k_pos) + jnp.where(self.mask(q, k, q_pos, k_pos), 0.0, self.value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Added:
    """Another score, plus an array: a rider of q, Float[B|1 H|1 T S], one row of keys for every query."""

    score: Any
    rider: str = dataclasses.field(default="added", metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block."""
        return self.score(q, k, q_pos, k_pos) + jnp.take(q[self.rider], k_pos, axis=1, mode="clip")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MLP:
    """A ReLU network on the concatenation of a query and a key,

        h_1 = relu(W_1 [q_t; k_s] + b_1)    h_l = relu(W_l h_{l-1} + b_l)    score = w_n . h_{n-1} + b_n

    The first layer is linear in the concatenation, W_1 [q; k] = W_1q q + W_1k k, so both of its parts are computed
    once per token, before the call: they are the features here, a tuple of rows, one for each unit of h_1,

        q: rows of W_1q q_t + b_1, each Float[B H T]        k: rows of W_1k k_s, each Float[B K S]

    and only what follows runs per pair. Rows and scalars apart, nothing is sliced and nothing has a third axis, so
    that a fused kernel can trace the same text. Make one with `MLP.of`.

    weights: of the layers after the first, by layer, output, input: scalars for a head (leaves H or 1).
    biases: of the same layers, by layer and output.
    """

    weights: tuple[tuple[tuple[Any, ...], ...], ...]
    biases: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, kernels: Sequence[Float[Array, "h _ _"]], biases: Sequence[Float[Array, "h _"]]) -> "MLP":
        """The layers after the first, of kernels (h, inputs, outputs) and biases (h, outputs), h = H or 1 (shared).

        Raises:
          ValueError: the layers do not fit each other, or the last has not exactly one output.
        """
        sizes = [kernel.shape[1:] for kernel in kernels]
        fitting = all(before[1] == after[0] for before, after in itertools.pairwise(sizes))
        if not sizes or not fitting or sizes[-1][1] != 1 or [bias.shape[1] for bias in biases] != [o for _, o in sizes]:
            raise ValueError(
                f"kernels of (inputs, outputs) {sizes} with biases of {[bias.shape[1] for bias in biases]} do not make "
                "a network with one output: each layer takes as many inputs as the one before has outputs"
            )
        return cls(
            tuple(tuple(tuple(w[:, i, o] for i in range(w.shape[1])) for o in range(w.shape[2])) for w in kernels),
            tuple(tuple(bias[:, o] for o in range(bias.shape[1])) for bias in biases),
        )

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block, in float32 or better."""
        q, k = features(q), features(k)
        precise = jnp.promote_types(jnp.result_type(jnp.float32, *q, *k), jnp.float32)
        units = [
            jax.nn.relu(a.astype(precise)[:, None] + b.astype(precise)[None, :]) for a, b in zip(q, k, strict=True)
        ]
        for weights, biases in zip(self.weights[:-1], self.biases[:-1], strict=True):
            units = [jax.nn.relu(_affine(units, *unit)) for unit in zip(weights, biases, strict=True)]
        score = _affine(units, self.weights[-1][0], self.biases[-1][0])
        return jnp.broadcast_to(score, (q_pos.size, k_pos.size))  # without units it is the last bias, a scalar


def _affine(units: Sequence[Array], weights: Sequence[Array], bias: Array) -> Array:
    return sum((weight * unit for weight, unit in zip(weights, units, strict=True)), start=bias)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Distance:
    """Minus the Euclidean distance, `-sqrt(|q_t|^2 + |k_s|^2 - 2 <q_t, k_s>)`.

    guarded: rounding below 0 counts as 0, and a distance of 0 has gradient 0. Without, both are NaN.
    """

    guarded: bool = dataclasses.field(default=True, metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block, accumulated and returned in float32 or better."""
        q, k = features(q), features(k)
        precise = jnp.promote_types(jnp.promote_types(q.dtype, k.dtype), jnp.float32)
        products = jnp.einsum("td,sd->ts", q, k, preferred_element_type=precise)
        q_squares, k_squares = (jnp.sum(jnp.square(tokens.astype(precise)), -1) for tokens in (q, k))
        squares = q_squares[:, None] + k_squares[None, :] - 2 * products
        return -(root(squares) if self.guarded else jnp.sqrt(squares))


def root(squares: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root; 0 with gradient 0 where there is nothing positive."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)
