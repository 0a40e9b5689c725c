"""What all generated data sets have in common."""

import re

import numpy as np
import pytest

from jattn.data.listops import ListOps
from jattn.data.mqar import MQAR
from jattn.errors import UserError

SMALL = {
    ListOps: {"max_length": 24},
    MQAR: {"sequence_length": 12, "num_pairs": 2, "vocab_size": 10, "random_filler": False},
}


def whole(dataset, split):
    index = np.arange(dataset.size(split))
    return dataset.examples(split, index, np.zeros_like(index))


@pytest.mark.parametrize("cls", SMALL)
def test_no_two_examples_are_equal(cls):
    dataset = cls(train_size=900, valid_size=120, test_size=110, **SMALL[cls])
    rows = np.concatenate([whole(dataset, split)["inputs"] for split in dataset.splits])
    assert len(rows) == 1130
    assert len(np.unique(rows, axis=0)) == 1130


@pytest.mark.parametrize("cls", SMALL)
def test_more_examples_leave_the_first_ones_as_they_are(cls):
    few, many = (cls(train_size=size, **SMALL[cls]) for size in (50, 900))
    for name, array in whole(few, "train").items():
        np.testing.assert_array_equal(array, whole(many, "train")[name][:50])


@pytest.mark.parametrize("cls", SMALL)
def test_another_seed_makes_other_examples(cls):
    first, second = (whole(cls(train_size=50, seed=seed, **SMALL[cls]), "train") for seed in (0, 1))
    assert (first["inputs"] != second["inputs"]).any(axis=1).mean() > 0.9


def test_a_grammar_with_too_few_sentences():
    """[op a b ] with four operators and ten digits: 400 expressions, divided over the three splits."""
    dataset = ListOps(max_depth=2, max_args=2, min_length=4, max_length=4)
    found = []
    for split in dataset.splits:
        with pytest.raises(UserError, match=rf"only \d+ different examples of split '{split}'.*{split}_size") as info:
            whole(dataset, split)
        found.append(int(re.search(r"only (\d+)", str(info.value))[1]))
    assert sum(found) == 400
    np.testing.assert_allclose(found, [320, 40, 40], atol=25)


def test_a_grammar_without_sentences():
    with pytest.raises(UserError, match="only 0 different"):
        whole(ListOps(max_depth=2, max_args=2, min_length=5, max_length=9), "train")


@pytest.mark.parametrize(("option", "value"), [("train_size", 0), ("valid_size", -3), ("test_size", 0), ("seed", -1)])
def test_values_out_of_range(option, value):
    for cls in SMALL:
        with pytest.raises(UserError, match=f"{option}={value} of {cls.__name__} must be"):
            cls(**{option: value})


def test_an_expression_is_in_the_same_split_whatever_the_padding():
    options = {"max_depth": 2, "max_args": 3, "min_length": 5}  # [op a b c ]
    train = {tuple(row[:5]) for row in whole(ListOps(train_size=2000, max_length=5, **options), "train")["inputs"]}
    test = {tuple(row[:5]) for row in whole(ListOps(test_size=300, max_length=9, seed=1, **options), "test")["inputs"]}
    assert len(train) == 2000
    assert not train & test
