"""What a few seeds show: means with intervals, differences with permutation tests, corrected for their number.

The intervals are percentile bootstrap intervals, the tests permutation tests of a difference of means, both scipy's.
A test lists all rearrangements where there are at most `RESAMPLES` of them, and is exact then: with n pairs there are
2^n, so that no p-value can be below 2 / 2^n. All random resamples are the same in every call.

Paired comparisons are corrected together (`corrected_together`), at no cost in that smallest p-value, the unpaired ones
by Holm's method (`holm`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEVEL = 0.05
RESAMPLES = 20_000
FEWEST_PAIRS = math.ceil(math.log2(2 / LEVEL))
"""With fewer, no difference can be shown at `LEVEL`: 2^n flips of signs give no p-value below 2 / 2^n."""

_BATCH = 1_000
"""Flips at a time: all at once are gigabytes with many cells and seeds."""

Values = Sequence[float | int] | np.ndarray


@dataclass(frozen=True)
class Summary:
    """A sample: how many values, their mean, its standard error, and a 95 % bootstrap interval of the mean.

    The last two are None of a single value, and the mean too where there is none.
    """

    count: int
    mean: float | None
    standard_error: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """A mean difference from the baseline.

    Attributes:
      counts: values on either side; for paired differences the number of pairs, twice.
      difference: mean of the other minus mean of the baseline; None without a value on each side.
      standard_error, interval: as of `Summary`; None with fewer than two values on a side.
      p_value: of a two-sided permutation test; None where the interval is.
      exact: whether all rearrangements were counted.
      smallest_p: the least p-value that so many values can give.
    """

    counts: tuple[int, int]
    difference: float | None
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    exact: bool = True
    smallest_p: float = 1.0


def summary(values: Values) -> Summary:
    """The mean of independent values, and how well it is known."""
    x = np.asarray(values, np.float64)
    if x.size == 0:
        return Summary(0, None, None, None)
    if x.size == 1:
        return Summary(1, float(x[0]), None, None)
    return Summary(x.size, float(x.mean()), _standard_error(x), _interval((x,), _mean))


def paired(values: Values, baseline: Values) -> Difference:
    """The mean of the differences value by value, tested by flipping their signs.

    That is right if neither of a pair is favoured when there is no difference, whatever the values' distribution.
    """
    d = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    if d.size < 2:
        return Difference((d.size, d.size), float(d[0]) if d.size else None)
    flips = 2**d.size
    return Difference(
        counts=(d.size, d.size),
        difference=float(d.mean()),
        standard_error=_standard_error(d),
        interval=_interval((d,), _mean),
        p_value=float(_flipped(d).pvalue),
        exact=flips <= RESAMPLES,
        # Where flips are drawn, the one seen is counted among them.
        smallest_p=2 / flips if flips <= RESAMPLES else 1 / (RESAMPLES + 1),
    )


def unpaired(values: Values, baseline: Values) -> Difference:
    """The difference of two means, tested by exchanging values between the two sides."""
    x, y = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    counts = (x.size, y.size)
    if min(counts) < 2:
        return Difference(counts, float(x.mean() - y.mean()) if min(counts) else None)
    test = stats.permutation_test(
        (x, y), _difference, permutation_type="independent", vectorized=True, n_resamples=RESAMPLES, rng=_rng()
    )
    splits = math.comb(x.size + y.size, x.size)
    return Difference(
        counts=counts,
        difference=float(x.mean() - y.mean()),
        standard_error=math.hypot(_standard_error(x), _standard_error(y)),
        interval=_interval((x, y), _difference),
        p_value=float(test.pvalue),
        exact=splits <= RESAMPLES,
        # Where splits are drawn, the one seen is counted among them, and the smaller tail twice.
        smallest_p=2 / (splits if splits <= RESAMPLES else RESAMPLES + 1),
    )


def corrected_together(differences: Mapping[str, Mapping[int, float]]) -> dict[str, float | None]:
    """p-values of comparisons with one baseline, corrected for their number: the chance that any true "no difference"
    is called one stays at the level.

    Westfall and Young's step-down test of the largest statistic ("Resampling-Based Multiple Testing", 1993, algorithm
    2.8): the sign of a seed is flipped in all comparisons at once, since all were made with the same runs of the
    baseline, and a statistic is measured by how often the largest among it and all smaller ones comes out as large. So
    the least p-value is that of a single comparison however many there are, and a comparison whose differences are all
    0 does not count.

    Args:
      differences: of each comparison, seed -> value minus the baseline's. A seed that a comparison lacks, because a run
        failed, takes no part in it: the comparison is tested with the flips of the seeds that it has.

    Returns:
      The corrected p-values; None of a comparison with fewer than two seeds, which does not count.

    >>> alike = {0: 1.0, 1: 1.1, 2: 0.9, 3: 1.0, 4: 1.2, 5: 0.8}
    >>> corrected_together({"a": alike, "b": {seed: (-1) ** seed * d for seed, d in alike.items()}})
    {'a': 0.03125, 'b': 1.0}
    """
    corrected: dict[str, float | None] = dict.fromkeys(differences)
    names = [name for name, own in differences.items() if len(own) > 1]
    if not names:
        return corrected
    seeds = sorted(set().union(*(differences[name] for name in names)))
    # A difference of 0 changes no statistic, whatever its sign.
    test = _flipped(np.array([[differences[name].get(seed, 0.0) for seed in seeds] for name in names]))
    falling = np.argsort(-test.statistic, kind="stable")
    null, seen = test.null_distribution[:, falling], test.statistic[falling]
    largest = np.maximum.accumulate(null[:, ::-1], axis=1)[:, ::-1]
    # As scipy counts: what differs by rounding is equal, and to flips that were drawn the one seen is added.
    reached = np.count_nonzero(largest >= seen * (1 - 100 * np.finfo(np.float64).eps), axis=0)
    drawn = int(2 ** len(seeds) > RESAMPLES)
    p_values = np.maximum.accumulate((reached + drawn) / (len(null) + drawn))
    return corrected | {names[place]: float(p) for place, p in zip(falling, p_values, strict=True)}


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """p-values corrected by Holm's method: the chance that any true "no difference" is called one stays at the level.

    None, of a comparison that could not be made, stays None and does not count.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    made = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for place, (p, name) in enumerate(made):
        largest = max(largest, min(1.0, p * (len(made) - place)))
        corrected[name] = largest
    return corrected


def _flipped(d: np.ndarray) -> Any:
    """scipy's permutation test of differences along the last axis, either way: the same flips for all rows.

    The statistic of a row is |sum| / root of (its sum of squares + the median of those of all rows that are not 0
    throughout), which no flip changes but for the sum. For one row it orders flips as Student's t does. Of several, t
    itself would let any row whose differences happen to be alike in size, which some flip makes all of one sign, hide
    the largest difference of another; and the plain sum would let a row of great spread do so.
    """
    squares = np.sum(d * d, axis=-1, keepdims=True)
    typical = np.median(squares[squares > 0]) if squares.any() else 1.0
    return stats.permutation_test(
        (d / np.sqrt(squares + typical),),
        _distance,
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        axis=-1,
        rng=_rng(),
    )


def _distance(d: np.ndarray, axis: int = -1) -> np.ndarray | np.floating:
    return np.abs(np.sum(d, axis=axis))


def _mean(x: np.ndarray, axis: int = -1) -> np.ndarray | np.floating:
    return np.mean(x, axis=axis)


def _difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray | np.floating:
    return np.mean(x, axis=axis) - np.mean(y, axis=axis)


def _interval(samples: tuple[np.ndarray, ...], statistic: Callable) -> tuple[float, float]:
    found = stats.bootstrap(
        samples,
        statistic,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=_rng(),
    ).confidence_interval
    return float(found.low), float(found.high)


def _standard_error(x: np.ndarray) -> float:
    return float(x.std(ddof=1) / math.sqrt(x.size))


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
