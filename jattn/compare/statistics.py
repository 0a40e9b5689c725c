"""What a few seeds show: means with intervals, differences with permutation tests, corrected for their number.

The intervals are percentile bootstrap intervals, the tests permutation tests of a difference of means, both scipy's.
A test lists all rearrangements where there are at most `RESAMPLES` of them, and is exact then: with n pairs there are
2^n, so that no p-value can be below 2 / 2^n. All random resamples are the same in every call.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEVEL = 0.05
RESAMPLES = 20_000

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
    test = stats.permutation_test(
        (d,), _mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=_rng()
    )
    return Difference(
        counts=(d.size, d.size),
        difference=float(d.mean()),
        standard_error=_standard_error(d),
        interval=_interval((d,), _mean),
        p_value=float(test.pvalue),
        exact=2**d.size <= RESAMPLES,
        smallest_p=_smallest_p(2**d.size),
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
        smallest_p=_smallest_p(splits),
    )


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


def fewest_pairs(comparisons: int) -> int:
    """The fewest pairs with which one of so many corrected comparisons can show a difference at `LEVEL`.

    >>> fewest_pairs(1), fewest_pairs(4)
    (6, 8)
    """
    return math.ceil(math.log2(2 * comparisons / LEVEL))


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


def _smallest_p(rearrangements: int) -> float:
    """Two-sided; where rearrangements are drawn, scipy counts the one seen among them."""
    return 2 / (rearrangements if rearrangements <= RESAMPLES else RESAMPLES + 1)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
