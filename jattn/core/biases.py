"""Biases: functions of the lag t - s that are added to the scores; -inf means "no such pair".

A bias is a pytree dataclass, `bias(lag) -> Float[H *lag.shape]` (a leading axis of 1 if the heads share it),
elementwise in the lag, whose array leaves are its parameters (leading axis H or 1). It may offer
`reach() -> (lo, hi)`, the interval of lags outside of which it is -inf: each end None (unbounded), an integer, or
an integer array over heads computed from the current parameters. Key blocks out of reach are never visited.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jattn.types import Array, Float, Int

End = int | None | Any
Reach = tuple[End, End]


class Bias:
    """Base of the biases here: they add. Any pytree dataclass with the right `__call__` is a bias too."""

    def __add__(self, other: Any) -> "Sum":
        return Sum((self, other))

    def __radd__(self, other: Any) -> "Sum":
        return Sum((other, self))

    def reach(self) -> Reach:
        """Every lag matters unless a subclass knows better."""
        return None, None


def _allow(inside: Array) -> Float[Array, "1 ..."]:
    return jnp.where(inside, 0.0, -jnp.inf)[None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Causal(Bias):
    """Keys at or before the query: lag >= 0."""

    def __call__(self, lag: Int[Array, "..."]) -> Float[Array, "1 ..."]:
        """0 where lag >= 0, -inf elsewhere."""
        return _allow(lag >= 0)

    def reach(self) -> Reach:
        """Lags 0 and up."""
        return 0, None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Window(Bias):
    """The `left` keys before the query, the query's own position, and the `right` keys after it."""

    left: int = dataclasses.field(metadata={"static": True})
    right: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self):
        if self.left < 0 or self.right < 0:
            raise ValueError(f"a window's sides are counts of keys, got left={self.left}, right={self.right}")

    def __call__(self, lag: Int[Array, "..."]) -> Float[Array, "1 ..."]:
        """0 where -right <= lag <= left, -inf elsewhere."""
        return _allow((lag >= -self.right) & (lag <= self.left))

    def reach(self) -> Reach:
        """The window's lags."""
        return -self.right, self.left


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Bias):
    """Several biases at once; `Causal() + Window(3, 0)` makes one."""

    terms: tuple[Any, ...]

    def __call__(self, lag: Int[Array, "..."]) -> Float[Array, "h ..."]:
        """The sum over terms, heads broadcast."""
        values = [term(lag) for term in self.terms]
        heads = max(value.shape[0] for value in values)
        return sum(jnp.broadcast_to(value, (heads, *value.shape[1:])) for value in values)

    def reach(self) -> Reach:
        """The intersection of the terms' intervals."""
        return intersection(self.terms)


def intersection(parts: Any) -> Reach:
    """The lags that every part (bias or mask) can allow; parts without a `reach` allow all."""
    reaches = [part.reach() for part in parts if hasattr(part, "reach")]
    lows = [lo for lo, _ in reaches if lo is not None]
    highs = [hi for _, hi in reaches if hi is not None]
    return _fold(max, jnp.maximum, lows), _fold(min, jnp.minimum, highs)


def _fold(of_ints: Any, of_arrays: Any, ends: list) -> End:
    if not ends:
        return None
    if all(isinstance(end, int) for end in ends):
        return of_ints(ends)
    total = ends[0]
    for end in ends[1:]:
        total = of_arrays(total, end)
    return total
