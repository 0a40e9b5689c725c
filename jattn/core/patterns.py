"""Patterns of pairs: biases and masks of strided, dilated, shifted and blocked attention."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core.biases import Bias, Reach, intersection
from jattn.core.masks import Mask
from jattn.types import Array, Bool, Float, Int, Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Strided(Bias):
    """Keys whose distance from the query is a multiple of `step`."""

    step: int = dataclasses.field(metadata={"static": True})

    def __call__(self, lag: Int[Array, "..."]) -> Float[Array, "1 ..."]:
        """0 where step divides the lag, -inf elsewhere."""
        return jnp.where(lag % self.step == 0, 0.0, -jnp.inf)[None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shifted(Mask):
    """`size` keys in a row, of which rider "left" of q, Int[B|1 1 T], says how many come before the query."""

    size: int = dataclasses.field(metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True for keys in the query's window."""
        place = q["left"][:, None] - (q_pos[:, None] - k_pos[None, :])  # of the key in the window
        return (place >= 0) & (place < self.size)

    def reach(self) -> Reach:
        """A window holds its query, which may be its first or its last token."""
        return 1 - self.size, self.size - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks(Mask):
    """Blocks of at most `size` tokens, numbered upwards by rider "block" of q, Int[B|1 1 T], and of k, Int[B|1 1 S].

    A query attends to the keys of its own block (part "within"), to those keys of other blocks for which rider
    "summary" of k, Bool[B|1 1 S], is true, of earlier blocks only where `causal` (part "between"), or to both ("all").
    """

    size: int = dataclasses.field(metadata={"static": True})
    causal: bool = dataclasses.field(metadata={"static": True})
    part: str = dataclasses.field(default="all", metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True for the part's pairs."""
        of_query, of_key = q["block"][:, None], k["block"][None, :]
        within = of_key == of_query
        between = k["summary"][None, :] & (of_key < of_query if self.causal else ~within)
        return {"within": within, "between": between, "all": within | between}[self.part]

    def reach(self) -> Reach:
        """Within blocks, less than a block's size."""
        return (1 - self.size, self.size - 1) if self.part == "within" else (None, None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StretchedBias(Bias):
    """Another bias at `factor` times the lag, for tokens of which only every factor-th is there."""

    bias: Any
    factor: int = dataclasses.field(metadata={"static": True})

    def __call__(self, lag: Int[Array, "..."]) -> Float[Array, "h ..."]:
        """The other bias at factor * lag."""
        return self.bias(self.factor * lag)

    def reach(self) -> Reach:
        """The other's lags in units of factor."""
        return _in_units(self.factor, self.bias)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StretchedMask(Mask):
    """Another mask at `factor` times the positions, for tokens of which only every factor-th is there."""

    mask: Any
    factor: int = dataclasses.field(metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """What the other mask says at factor * position."""
        return self.mask(q, k, self.factor * q_pos, self.factor * k_pos)

    def reach(self) -> Reach:
        """The other's lags in units of factor."""
        return _in_units(self.factor, self.mask)


def _in_units(factor: int, part: Any) -> Reach:
    lo, hi = intersection([part])
    return None if lo is None else -(-lo // factor), None if hi is None else hi // factor
