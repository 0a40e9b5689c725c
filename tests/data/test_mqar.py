"""Associative recall: every answer can be looked up, queries lie as far away as they should."""

import hashlib

import numpy as np
import pytest
from scipy import stats

from jattn.data.mqar import MQAR
from jattn.errors import UserError
from jattn.task import Task


def whole(dataset, split):
    index = np.arange(dataset.size(split))
    return dataset.examples(split, index, np.zeros_like(index))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sequence_length": 8, "num_pairs": 2, "vocab_size": 50},  # no room to spare
        {"sequence_length": 23, "num_pairs": 3, "vocab_size": 8},  # all keys are used, odd length
        {"sequence_length": 30, "num_pairs": 5, "vocab_size": 41, "random_filler": False},
        {"sequence_length": 30, "num_pairs": 5, "vocab_size": 41, "power_a": 1.0},
    ],
)
def test_answers_can_be_looked_up(options):
    dataset = MQAR(train_size=200, valid_size=50, test_size=50, **options)
    pairs, half = dataset.num_pairs, dataset.vocab_size // 2
    for split in dataset.splits:
        batch = whole(dataset, split)
        for inputs, targets, weight in zip(batch["inputs"], batch["targets"], batch["weight"], strict=True):
            keys, values = inputs[: 2 * pairs : 2].tolist(), inputs[1 : 2 * pairs : 2].tolist()
            assert len(set(keys)) == len(set(values)) == pairs
            assert all(1 <= key < half for key in keys)
            assert all(half <= value < dataset.vocab_size for value in values)
            places = np.flatnonzero(weight)
            np.testing.assert_array_equal(weight[places], 1)
            assert places.min() >= 2 * pairs
            assert not ((places - 2 * pairs) % 2).any()
            assert sorted(inputs[places].tolist()) == sorted(keys)  # each is asked for once
            memory = dict(zip(keys, values, strict=True))
            assert [memory[key] for key in inputs[places].tolist()] == targets[places].tolist()
            if not dataset.random_filler:
                others = np.setdiff1d(np.arange(2 * pairs, dataset.sequence_length), places)
                assert not inputs[others].any()


def gaps(power_a):
    """For each pair of many examples, the number of the two places behind the pairs where it is asked for."""
    dataset = MQAR(
        train_size=6000, sequence_length=32, num_pairs=4, vocab_size=100, power_a=power_a, random_filler=False
    )
    inputs = whole(dataset, "train")["inputs"]
    equal = inputs[:, None, 8::2] == inputs[:, :8:2, None]
    assert (equal.sum(axis=2) == 1).all()
    return equal.argmax(axis=2)


@pytest.mark.parametrize("power_a", [0.01, 0.5, 1])
def test_distances_follow_the_power_law(power_a):
    found = gaps(power_a)
    weights = np.arange(1, 13) ** (power_a - 1.0)
    share = weights / weights.sum()
    first = np.bincount(found[:, 0], minlength=12)
    assert stats.chisquare(first, 6000 * share).pvalue > 0.01
    # The second pair has its choice of what the first has left: sum over i of p_i p_j / (1 - p_i).
    second = np.array([sum(share[i] * share[j] / (1 - share[i]) for i in range(12) if i != j) for j in range(12)])
    assert stats.chisquare(np.bincount(found[:, 1], minlength=12), 6000 * second).pvalue > 0.01


def test_filler_covers_the_vocabulary():
    dataset = MQAR(train_size=3000, sequence_length=40, num_pairs=2, vocab_size=12)
    batch = whole(dataset, "train")
    filler = batch["inputs"][:, 4:][batch["weight"][:, 4:] == 0]
    assert stats.chisquare(np.bincount(filler, minlength=12)).pvalue > 0.01


def test_task():
    assert MQAR(sequence_length=40, vocab_size=90).task == Task(kind="language", vocab_size=90, length=40)


def test_the_examples_never_change():
    """Recorded: results on generated data are comparable only if the data are the same everywhere."""
    batch = MQAR().examples("test", np.arange(1000), np.zeros(1000, int))
    digest = hashlib.sha256(batch["inputs"].astype("<i4").tobytes() + batch["targets"].astype("<i4").tobytes())
    assert digest.hexdigest()[:16] == "b7f69c827ba1061b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_pairs": 0}, "num_pairs=0 .* 1 or more"),
        ({"power_a": -0.5}, "power_a=-0.5 .* 0 or more"),
        ({"sequence_length": 31}, "sequence_length=31 .* 4 \\* num_pairs = 32"),
        ({"vocab_size": 17}, "vocab_size=17 .* 2 \\* num_pairs \\+ 2 = 18"),
    ],
)
def test_values_that_are_not_allowed(options, message):
    with pytest.raises(UserError, match=message):
        MQAR(**options)
