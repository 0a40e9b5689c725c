"""Interleaved timing, so that a busy machine disturbs all candidates alike."""

import dataclasses
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import jax
import numpy as np

Name = TypeVar("Name", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one candidate over all repetitions."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median repetition."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The middle half of the repetitions lies between these."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(low), float(high)

    def ratio_to(self, other: "Timing") -> tuple[float, float, float]:
        """Median and quartiles of this time over the other's, repetition by repetition."""
        ratios = np.asarray(self.seconds) / np.asarray(other.seconds)
        low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        return float(median), float(low), float(high)


class Seconds(float):
    """What a call returns that measures itself: how long it took."""


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes, until its arrays are there."""
    start = time.perf_counter()
    found = jax.block_until_ready(call())
    return float(found) if isinstance(found, Seconds) else time.perf_counter() - start


def interleaved(candidates: Mapping[Name, Callable[[], object]], repeats: int) -> dict[Name, Timing]:
    """Runs every candidate once per repetition, in turn, after one untimed round."""
    for candidate in candidates.values():
        jax.block_until_ready(candidate())
    seconds: dict[Name, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, candidate in candidates.items():
            seconds[name].append(seconds_of(candidate))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
