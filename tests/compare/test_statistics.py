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
    least = statistics.FEWEST_PAIRS
    few, enough = (statistics.paired(np.arange(n) + 1.0, np.zeros(n)) for n in (least - 1, least))
    assert enough.p_value <= statistics.LEVEL < few.p_value


def relative(d):
    squares = np.nansum(d**2, 1)
    return np.abs(np.nansum(d, 1)) / np.sqrt(squares + np.median(squares))


def by_enumeration(d):
    """Westfall and Young's step-down test, written from its definition. (cells, n) -> p-values."""
    every = [relative(d * signs) for signs in SIGNS[d.shape[1]]]
    seen = every[0]
    order = np.argsort(-seen)
    p_values, largest = np.empty(len(d)), 0.0
    for place, cell in enumerate(order):
        rest = order[place:]
        largest = max(largest, np.mean([t[rest].max() >= seen[cell] - 1e-9 for t in every]))
        p_values[cell] = largest
    return p_values


SIGNS = {n: np.array(list(itertools.product((1.0, -1.0), repeat=n))) for n in (5, 6)}


def seeds_of(d):
    """As `corrected_together` takes differences, NaN = the seed is missing."""
    return {str(i): {seed: float(x) for seed, x in enumerate(row) if not np.isnan(x)} for i, row in enumerate(d)}


@pytest.mark.parametrize(("cells", "n"), [(1, 5), (4, 5), (3, 6)])
def test_the_correction_against_all_flips(cells, n):
    d = RNG.standard_normal((cells, n)) + np.linspace(2, 0, cells)[:, None]
    found = statistics.corrected_together(seeds_of(d))
    assert list(found.values()) == pytest.approx(by_enumeration(d))
    if cells == 1:
        assert found["0"] == statistics.paired(d[0], np.zeros(n)).p_value
        of_t = [np.abs(stats.ttest_1samp(d[0] * signs, 0.0).statistic) for signs in SIGNS[n]]
        assert found["0"] == np.mean([t >= of_t[0] - 1e-9 for t in of_t])


def test_the_correction_does_not_depend_on_order_or_unit():
    d = RNG.standard_normal((4, 6)) + np.linspace(2, 0, 4)[:, None]
    found = list(statistics.corrected_together(seeds_of(d)).values())
    other = statistics.corrected_together(seeds_of((1e9 * d * [[1], [-1], [-1], [1]])[::-1]))
    assert list(other.values())[::-1] == pytest.approx(found)


def test_a_failed_seed_leaves_the_flips_of_the_others():
    d = RNG.standard_normal((3, 6)) + np.array([[1.5], [1.0], [0.0]])
    missing = d.copy()
    missing[1, 2] = missing[2, :3] = np.nan
    found = statistics.corrected_together(seeds_of(missing))
    assert list(found.values()) == pytest.approx(by_enumeration(missing))
    alone = statistics.corrected_together(seeds_of(missing[1:2]))["0"]
    assert alone == statistics.paired(np.delete(d[1], 2), np.zeros(5)).p_value
    assert statistics.corrected_together({"a": {}, "b": {3: 1.0}}) == {"a": None, "b": None}
    assert statistics.corrected_together({"a": {3: 1.0}, "b": {0: 1.0, 1: 1.0}}) == {"a": None, "b": 0.5}


def test_cells_that_compute_the_same_function_cost_nothing():
    d = RNG.standard_normal((3, 6)) + np.array([[3.0], [1.0], [0.2]])
    alone = statistics.corrected_together(seeds_of(d))
    copies = statistics.corrected_together(seeds_of(np.concatenate([d, d, np.zeros((2, 6))])))
    assert list(copies.values()) == [*alone.values(), *alone.values(), 1.0, 1.0]


def test_differences_without_any_spread():
    found = statistics.corrected_together(seeds_of(np.array([[2.0] * 6, [-1e-9] * 6, [0.0] * 6])))
    assert list(found.values()) == [2 / 2**6, 2 / 2**6, 1.0]


def test_drawn_flips_count_the_one_seen():
    n = 30
    spread = np.where(np.arange(n) % 2, 1.0, -1.0)
    found = statistics.corrected_together(seeds_of(np.stack([spread, 5 + spread])))
    one = statistics.paired(5 + spread, np.zeros(n))
    assert found["1"] == one.p_value == one.smallest_p == 1 / (statistics.RESAMPLES + 1)


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


@pytest.mark.parametrize("kind", ["normal", "alike", "skewed"])
def test_of_many_comparisons_with_one_baseline_any_errs_at_most_at_the_rate(kind):
    """14 mechanisms that are none: of one distribution with the baseline, or all but copies of one another."""
    n, trials, mechanisms = 6, 250, 14
    errors = 0
    for _ in range(trials):
        values = RNG.exponential(size=(mechanisms + 1, n)) if kind == "skewed" else RNG.standard_normal((15, n))
        d = values[1:] - values[0]
        if kind == "alike":
            d = d[:1] + 0.1 * d
        p_values = statistics.corrected_together(seeds_of(d)).values()
        errors += any(p <= statistics.LEVEL for p in p_values)
    low, high = stats.binom.interval(0.999, trials, 2 / 2**n)
    assert low <= errors <= high


def test_six_seeds_show_a_clear_difference_among_fourteen():
    """The other 13 do not differ; a difference of five standard deviations of a run is missed almost never."""
    shown = 0
    for _ in range(40):
        values = RNG.standard_normal((15, 6))
        values[1] += 5
        shown += statistics.corrected_together(seeds_of(values[1:] - values[0]))["0"] <= statistics.LEVEL
    assert shown >= 38


def test_true_differences_do_not_hide_one_another():
    d = RNG.standard_normal((14, 6)) * 0.1 + np.linspace(-1.0, -2.0, 14)[:, None]
    assert set(statistics.corrected_together(seeds_of(d)).values()) == {2 / 2**6}


def test_a_large_difference_is_found():
    found = statistics.paired(RNG.standard_normal(8) + 5, RNG.standard_normal(8))
    assert found.p_value == found.smallest_p
