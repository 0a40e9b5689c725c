"""Statistics of few values against scipy, enumeration and definitions; and how often they err."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jattn.compare import statistics

RNG = np.random.default_rng(5)
A = np.array([0.951, 0.943, 0.957, 0.962, 0.949])
B = np.array([0.936, 0.945, 0.931, 0.940, 0.948])


def test_a_summary_against_scipy_and_all_resamples():
    found = statistics.summary(A)
    assert found.count == 5
    assert found.mean == pytest.approx(np.mean(A))
    assert found.standard_error == pytest.approx(stats.sem(A))
    means = [np.mean(chosen) for chosen in itertools.product(A, repeat=5)]
    # Two quantiles of a distribution on a grid of means: they differ by resampling noise only.
    assert found.interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=3e-4)
    theirs = stats.bootstrap(
        (A,), np.mean, n_resamples=statistics.RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    )
    assert found.interval == pytest.approx(theirs.confidence_interval)


def test_summaries_of_none_and_one():
    assert statistics.summary([]) == statistics.Summary(0, None, None, None)
    assert statistics.summary([3.0]) == statistics.Summary(1, 3.0, None, None)


def test_the_paired_test_counts_all_signs():
    d = A - B
    found = statistics.paired(A, B)
    flipped = [np.mean(np.multiply(signs, d)) for signs in itertools.product((1, -1), repeat=5)]
    assert found.p_value == np.mean([abs(m) >= abs(d.mean()) - 1e-12 for m in flipped])
    assert (found.exact, found.smallest_p, found.counts) == (True, 2 / 2**5, (5, 5))
    assert found.difference == pytest.approx(d.mean())
    assert found.standard_error == pytest.approx(stats.sem(d))
    assert found.interval == statistics.summary(d).interval
    assert statistics.paired(B, A).p_value == found.p_value


def test_the_unpaired_test_counts_all_splits():
    found = statistics.unpaired(A, B[:4])
    every = np.concatenate([A, B[:4]])
    gaps = []
    for chosen in itertools.combinations(range(9), 5):
        other = [i for i in range(9) if i not in chosen]
        gaps.append(every[list(chosen)].mean() - every[other].mean())
    gap = A.mean() - B[:4].mean()
    below, above = np.mean(np.array(gaps) <= gap + 1e-12), np.mean(np.array(gaps) >= gap - 1e-12)
    assert found.p_value == pytest.approx(min(1, 2 * min(below, above)))
    assert (found.exact, found.counts) == (True, (5, 4))
    assert found.smallest_p == pytest.approx(2 / math.comb(9, 5))
    assert found.difference == pytest.approx(gap)
    assert found.standard_error == pytest.approx(math.hypot(stats.sem(A), stats.sem(B[:4])))
    means = stats.bootstrap(
        (A, B[:4]), lambda x, y, axis: x.mean(axis) - y.mean(axis), method="percentile", rng=np.random.default_rng(1)
    )
    assert found.interval == pytest.approx(means.confidence_interval, abs=1e-3)


def test_the_smallest_p_is_reached():
    high, low = np.arange(6) + 100.0, np.arange(6) * 1.5
    for found in (statistics.paired(high, low), statistics.unpaired(high, low)):
        assert found.p_value == pytest.approx(found.smallest_p)
    many = np.arange(20.0)
    found = statistics.paired(many + 50, many * 1.1)
    assert not found.exact
    assert found.p_value == pytest.approx(found.smallest_p)


def test_equal_values_are_no_difference():
    for found in (statistics.paired(A, A), statistics.unpaired(A, A)):
        assert (found.difference, found.p_value) == (0.0, 1.0)
    assert statistics.paired(A, A).interval == (0.0, 0.0)


def test_too_few_values_are_not_tested():
    for found in (statistics.paired([2.0], [1.5]), statistics.unpaired([2.0], [1.5])):
        assert (found.difference, found.p_value, found.interval) == (0.5, None, None)
    assert statistics.unpaired([], A).difference is None


def test_holm_is_closed_testing():
    """Rejecting what every set of hypotheses that holds it rejects by Bonferroni's bound."""
    for _ in range(20):
        p = dict(zip("abcd", RNG.uniform(0, 0.4, 4), strict=True))
        sets = [s for n in range(1, 5) for s in itertools.combinations(p, n)]
        expected = {name: max(min(1, len(s) * min(p[m] for m in s)) for s in sets if name in s) for name in p}
        assert statistics.holm(p) == pytest.approx(expected)
    assert statistics.holm({"a": None, "b": 0.04, "c": 0.5}) == {"a": None, "b": 0.08, "c": 0.5}


def test_fewest_pairs_is_the_least_number_that_suffices():
    for comparisons in range(1, 40):
        n = statistics.fewest_pairs(comparisons)
        assert comparisons * 2 / 2**n <= statistics.LEVEL < comparisons * 2 / 2 ** (n - 1)


@pytest.mark.parametrize(("kind", "n"), [(statistics.paired, 7), (statistics.unpaired, 5)])
def test_a_mechanism_and_itself_differ_at_the_stated_rate(kind, n):
    """Two samples of one distribution: as often below 0.05 as chance allows, not more and not less."""
    trials = 200
    values = 0.95 + 0.01 * RNG.standard_normal((2, trials, n))
    p = np.array([kind(a, b).p_value for a, b in zip(*values, strict=True)])
    rearrangements = 2**n if kind is statistics.paired else math.comb(2 * n, n)
    rate = 2 * math.floor(statistics.LEVEL * rearrangements / 2) / rearrangements  # the largest below 5 %
    low, high = stats.binom.interval(0.999, trials, rate)
    assert low <= np.sum(p <= statistics.LEVEL) <= high


def test_of_several_comparisons_with_one_baseline_any_errs_at_most_at_the_rate():
    n, trials, mechanisms = 8, 100, 4
    errors = 0
    for _ in range(trials):
        baseline, *others = RNG.standard_normal((mechanisms, n))
        p = {str(i): statistics.paired(x, baseline).p_value for i, x in enumerate(others)}
        errors += any(value <= statistics.LEVEL for value in statistics.holm(p).values())
    assert errors <= stats.binom.interval(0.999, trials, statistics.LEVEL)[1]


def test_a_large_difference_is_found():
    found = statistics.paired(RNG.standard_normal(8) + 5, RNG.standard_normal(8))
    assert found.p_value == found.smallest_p
