"""ListOps against a reader of its language that shares nothing with its generator."""

import hashlib

import numpy as np
import pytest
from scipy import stats

from jattn.data.listops import TOKENS, ListOps
from jattn.errors import UserError
from jattn.task import Task

MEANING = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(np.median(values)),
    "[SM": lambda values: sum(values) % 10,
}


class Reader:
    """Reads one expression from words: its value, and for each list its depth, operator and arguments."""

    def __init__(self, words):
        self.words = words.split()
        self.lists = []
        self.value, end = self.read(0, 1)
        assert end == len(self.words)

    def read(self, place, depth):
        word = self.words[place]
        if word in MEANING:
            values, heads, place = [], [], place + 1
            while self.words[place] != "]":
                heads.append(self.words[place])
                value, place = self.read(place, depth + 1)
                values.append(value)
            self.lists.append((depth, word, heads))
            return MEANING[word](values), place + 1
        return int(word), place + 1


def test_the_reader_by_hand():
    assert Reader("[MAX 2 9 [MIN 4 7 ] 0 ]").value == 9
    assert Reader("[SM 8 [MED 1 4 8 9 ] 7 ]").value == 1  # median 6
    assert Reader("[MED 3 4 ]").value == 3  # 3.5, rounded down
    nested = Reader("[MAX [MIN 4 [SM 1 2 ] ] 0 ]")
    assert [depth for depth, _, _ in nested.lists] == [3, 2, 1]


def expressions(dataset, split="train"):
    index = np.arange(dataset.size(split))
    batch = dataset.examples(split, index, np.zeros_like(index))
    np.testing.assert_array_equal(batch["weight"], np.ones(len(index)))
    for row, target in zip(batch["inputs"], batch["targets"], strict=True):
        length = np.count_nonzero(row)
        assert not row[length:].any()  # padding is at the end
        yield " ".join(TOKENS[token] for token in row[:length]), target


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_depth": 2, "max_args": 7, "min_length": 4, "max_length": 9},
        {"max_depth": 3, "max_args": 2, "min_length": 6, "max_length": 10, "operator_probability": 1},
        {"max_depth": 10, "max_args": 10, "min_length": 150, "max_length": 300},
        {"max_depth": 20, "max_args": 3, "min_length": 30, "max_length": 40, "operator_probability": 0.5},
    ],
)
def test_values_depths_arguments_and_lengths(options):
    dataset = ListOps(train_size=300, valid_size=40, test_size=40, **options)
    deepest = 0
    for split in dataset.splits:
        for words, target in expressions(dataset, split):
            assert dataset.min_length <= words.count(" ") + 1 <= dataset.max_length
            reader = Reader(words)
            assert reader.value == target
            assert all(2 <= len(heads) <= dataset.max_args for _, _, heads in reader.lists)
            deepest = max(deepest, *(depth for depth, _, _ in reader.lists))
    assert deepest <= dataset.max_depth - 1
    assert deepest == dataset.max_depth - 1 or dataset.max_depth > 10


def test_the_grammar_s_probabilities():
    dataset = ListOps(
        train_size=6000, max_depth=3, max_args=4, min_length=1, max_length=30, operator_probability=0.4
    )  # the longest: 4 * (4 + 2) + 2 tokens, so nothing is drawn again for its length
    drawn = dataset.draw(np.random.Philox(0))
    assert len(drawn["targets"]) == 8192
    lists = [
        entry for row in drawn["inputs"] for entry in Reader(" ".join(TOKENS[token] for token in row if token)).lists
    ]
    for depth in (1, 2):
        words = [word for at, word, _ in lists if at == depth]
        counts = [len(heads) for at, _, heads in lists if at == depth]
        assert stats.chisquare([words.count(word) for word in MEANING]).pvalue > 0.01
        assert stats.chisquare(np.bincount(counts)[2:]).pvalue > 0.01
    heads = [head for at, _, heads in lists if at == 1 for head in heads]
    nested = sum(head in MEANING for head in heads)
    assert stats.binomtest(nested, len(heads), 0.4).pvalue > 0.01
    digits = [head for _, _, heads in lists for head in heads if head not in MEANING]
    assert stats.chisquare([digits.count(digit) for digit in "0123456789"]).pvalue > 0.01


def test_task():
    assert ListOps(max_length=30).task == Task(kind="text", num_classes=10, vocab_size=16, length=30)
    assert TOKENS[0] == "<pad>"
    assert len(set(TOKENS)) == 16


def test_the_examples_never_change():
    """Recorded: results on generated data are comparable only if the data are the same everywhere."""
    index = np.arange(1000)
    batch = ListOps().examples("test", index, index)
    digest = hashlib.sha256(batch["inputs"].astype("<i4").tobytes() + batch["targets"].astype("<i4").tobytes())
    assert digest.hexdigest()[:16] == "9acfbb0386f569f8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_depth": 1}, "max_depth=1 .* 2 or more"),
        ({"max_args": 1}, "max_args=1 .* 2 or more"),
        ({"min_length": 0}, "min_length=0 .* 1 or more"),
        ({"operator_probability": 1.5}, "operator_probability=1.5 .* between 0 and 1"),
        ({"max_length": 7}, "max_length=7 .* min_length=8"),
        ({"min_length": 1, "max_length": 3}, "max_length=3 .* at least 4"),
    ],
)
def test_values_that_are_not_allowed(options, message):
    with pytest.raises(UserError, match=message):
        ListOps(**options)
