"""Whether numbers follow a power law, p(x) ~ x^-alpha for x >= xmin, after Clauset, Shalizi and Newman 2009.

Maximum likelihood for alpha, the Kolmogorov-Smirnov distance for xmin, resampling for the p-value (arXiv:0706.1062,
sections 3 and 4); likelihood ratios against a log-normal and an exponential by the package `powerlaw`.
"""

import dataclasses
import warnings

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import zeta

FEWEST = 50
"""Values of a tail that is fitted."""

CANDIDATES = 40
"""Values of xmin that are tried, evenly spaced among those observed."""

TABLE = 1024
"""Values from xmin on whose probabilities are tabled when integers are drawn."""

LARGEST = 1e300
"""What is drawn is no larger: an exponent near 1 leads beyond the numbers of float64."""

ALTERNATIVES = ("lognormal", "exponential")


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """A fit.

    Attributes:
      alpha: the exponent; NaN where too few values are left to fit one.
      error: its standard error, (alpha - 1) / sqrt(tail).
      xmin: from where on.
      tail: number of values from there on.
      distance: the Kolmogorov-Smirnov distance of tail and fit.
      p: how often data drawn from the fit lie farther from theirs; below 0.1 the law is implausible. None = not asked
        for.
      ratio: alternative -> (normalised log-likelihood ratio, > 0 where the power law fits better; its p-value, above
        which neither is favoured).
    """

    alpha: float
    error: float
    xmin: float
    tail: int
    distance: float
    p: float | None
    ratio: dict[str, tuple[float, float]]


def fit(
    values: np.ndarray,
    *,
    discrete: bool = False,
    xmin: float | int | None = None,
    resamples: int = 100,
    seed: int = 0,
) -> PowerLaw:
    """The power law of the tail of positive values.

    Args:
      values: of any shape; those that are not positive and finite are left out.
      discrete: whether they are integers.
      xmin: from where on; None = where the distance is least.
      resamples: for the p-value, known to about 1 / (2 sqrt(resamples)); 0 = none.
      seed: of the resampling.
    """
    x = np.sort(np.asarray(values, np.float64).ravel())
    x = x[np.isfinite(x) & (x > 0)]
    found = _best(x, discrete, xmin)
    if found is None:
        return PowerLaw(np.nan, np.nan, np.nan, len(x), np.nan, None, {})
    alpha, start, distance = found
    tail = x[x >= start]
    p = None
    if resamples:
        rng = np.random.default_rng(seed)
        farther = [_distance_of_draw(rng, x[x < start], found, len(x), discrete, xmin) for _ in range(resamples)]
        p = float(np.mean(np.array(farther) >= distance))
    error = (alpha - 1) / np.sqrt(len(tail))
    return PowerLaw(alpha, error, start, len(tail), distance, p, _ratios(tail, start, discrete))


def _best(x: np.ndarray, discrete: bool, xmin: float | int | None) -> tuple[float, float, float] | None:
    """alpha, xmin and distance where the distance is least; None where no tail is long enough."""
    if len(x) < FEWEST or x[0] == x[-1]:
        return None
    starts = np.unique(x[: len(x) - FEWEST + 1]) if xmin is None else np.array([xmin], np.float64)
    if len(starts) > CANDIDATES:
        starts = starts[np.linspace(0, len(starts) - 1, CANDIDATES).astype(int)]
    fits = []
    for start in starts:
        tail = x[np.searchsorted(x, start) :]
        if len(tail) >= FEWEST and tail[-1] > start:
            alpha = _alpha(tail, start, discrete)
            fits.append((_distance(tail, alpha, start, discrete), alpha, float(start)))
    if not fits:
        return None
    distance, alpha, start = min(fits)
    return alpha, start, distance


def _alpha(tail: np.ndarray, xmin: float, discrete: bool) -> float:
    if not discrete:
        return float(1 + len(tail) / np.log(tail / xmin).sum())
    mean = np.log(tail).mean()
    return float(minimize_scalar(lambda a: np.log(zeta(a, xmin)) + a * mean, bounds=(1.01, 10), method="bounded").x)


def _distance(tail: np.ndarray, alpha: float, xmin: float, discrete: bool) -> float:
    n = len(tail)
    if not discrete:
        model = 1 - (tail / xmin) ** (1 - alpha)
        return float(max(np.max(np.arange(1, n + 1) / n - model), np.max(model - np.arange(n) / n)))
    x, counts = np.unique(tail, return_counts=True)
    return float(np.max(np.abs(np.cumsum(counts) / n - 1 + zeta(alpha, x + 1) / zeta(alpha, xmin))))


def draw(rng: np.random.Generator, alpha: float, xmin: float | int, count: int, discrete: bool = False) -> np.ndarray:
    """Numbers that follow the law; integers, from an integer xmin on, follow the zeta distribution cut off there."""
    u = 1 - rng.random(count)
    if not discrete:
        return xmin * u ** (-1 / (alpha - 1))
    # The largest x of which P(X >= x) = zeta(alpha, x) / zeta(alpha, xmin) is at least u.
    u *= zeta(alpha, xmin)
    at_least = zeta(alpha, xmin + np.arange(TABLE))
    x = xmin - 1.0 + np.searchsorted(-at_least, -u, side="right")
    # Beyond the table zeta(alpha, x) is (x - 1/2)^(1 - alpha) / (alpha - 1), to a part in 1e6 and better.
    far = u < at_least[-1]
    with np.errstate(over="ignore"):
        root = (u[far] * (alpha - 1)) ** (-1 / (alpha - 1))
    x[far] = np.floor(np.minimum(root, LARGEST) + 0.5)
    return x


def _distance_of_draw(
    rng: np.random.Generator,
    below: np.ndarray,
    law: tuple[float, float, float],
    count: int,
    discrete: bool,
    xmin: float | int | None,
) -> float:
    """The distance of a sample that follows the law above xmin and the data below."""
    alpha, start, _ = law
    in_tail = rng.binomial(count, 1 - len(below) / count)
    drawn = draw(rng, alpha, start, in_tail, discrete)
    rest = rng.choice(below, count - in_tail) if len(below) else np.empty(0)
    found = _best(np.sort(np.concatenate([rest, drawn])), discrete, xmin)
    return 0.0 if found is None else found[2]


def _ratios(tail: np.ndarray, xmin: float, discrete: bool) -> dict[str, tuple[float, float]]:
    import powerlaw  # half a second, for its symbolic mathematics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that lie at the edge of what is allowed
        fitted = powerlaw.Fit(tail, xmin=xmin, discrete=discrete, verbose=0)
        found = {}
        for name in ALTERNATIVES:
            ratio, p = fitted.distribution_compare("power_law", name, normalized_ratio=True)
            found[name] = (float(ratio), float(p))
    return found
