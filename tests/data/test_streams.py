"""Random numbers: in range, uniform, reproducible."""

import numpy as np
import pytest
from scipy import stats

from jattn.data.streams import distinct, integers, permutation, stream, uniform


def test_streams_are_functions_of_purpose_and_numbers():
    words = {
        path: stream(*path).random_raw(4).tolist()
        for path in (("a",), ("b",), ("a", 0), ("a", 0, 0), ("a", 1), ("a", 0, 1), ("a", 2**32), ("a", 1, 2**40))
    }
    assert len({tuple(w) for w in words.values()}) == len(words)
    for path, expected in words.items():
        assert stream(*path).random_raw(4).tolist() == expected


def test_the_words_never_change():
    assert stream("order", 0, 1).random_raw(2).tolist() == [8881658867802509415, 5923899991695286051]


def test_uniform():
    sample = uniform(stream("test", 1), (100, 60))
    assert sample.shape == (100, 60)
    assert sample.dtype == np.float64
    assert 0 <= sample.min() <= sample.max() < 1
    assert stats.kstest(sample.ravel(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("bound", [1, 2, 7, 10])
def test_integers(bound):
    sample = integers(stream("test", bound), (70, 100), bound)
    counts = np.bincount(sample.ravel(), minlength=bound)
    assert len(counts) == bound
    assert stats.chisquare(counts).pvalue > 0.01 if bound > 1 else counts == [7000]


def test_integers_reach_the_largest_bound():
    sample = integers(stream("test"), (1000,), 2**32)
    assert 0.98 * 2**32 < sample.max() < 2**32


def test_permutation():
    order = permutation(stream("test", 3), 1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    pairs = [tuple(permutation(stream("test", n), 3)) for n in range(3000)]
    counts = [pairs.count(pair) for pair in set(pairs)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(("count", "bound"), [(1, 1), (1, 4), (2, 4), (3, 3), (7, 500)])
def test_distinct_rows(count, bound):
    sample = distinct(stream("test", count, bound), 4000, count, bound)
    assert sample.shape == (4000, count)
    assert 0 <= sample.min() <= sample.max() < bound
    assert all(len(set(row)) == count for row in sample.tolist())


@pytest.mark.parametrize(("count", "bound", "arrangements"), [(2, 4, 12), (3, 3, 6), (3, 5, 60)])
def test_every_arrangement_is_as_likely(count, bound, arrangements):
    sample = distinct(stream("test", count, bound), 12_000, count, bound)
    _, counts = np.unique(sample, axis=0, return_counts=True)
    assert len(counts) == arrangements
    assert stats.chisquare(counts).pvalue > 0.01


def test_nothing_can_be_asked_for():
    assert uniform(stream("test"), (0,)).shape == (0,)
    assert integers(stream("test"), (0, 3), 5).shape == (0, 3)
