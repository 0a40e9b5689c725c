"""Windows over a row of tokens, each token predicted once."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jattn.data import eval_batch, num_eval_batches, train_batch
from jattn.data.corpus import Corpus, epoch_shift, windows
from jattn.errors import UserError


@dataclass(frozen=True)
class Counting(Corpus):
    """Token t of a split is t, so a target says which token it is."""

    count: int = 103
    vocab_size = 10_000
    tokens_per_byte = 0.25

    def tokens(self, split):
        return np.arange(self.count + self.splits.index(split))

    def description(self):
        return "numbers"


def sizes(draw):
    length = draw(st.integers(1, 40))
    return length, draw(st.integers(length + 1, 300))


@settings(deadline=None)
@given(st.composite(sizes)(), st.sampled_from(Counting.splits), st.integers(1, 9))
def test_evaluation_predicts_every_token_but_the_first_once(size, split, batch_size):
    length, count = size
    corpus = Counting(sequence_length=length, count=count)
    seen = []
    for n in range(num_eval_batches(corpus, split, batch_size)):
        batch = eval_batch(corpus, split, n, batch_size)
        real = batch["weight"] == 1
        np.testing.assert_array_equal(batch["weight"][~real], 0)
        np.testing.assert_array_equal(batch["targets"][real], batch["inputs"][real] + 1)
        seen.append(batch["targets"][real])
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(1, len(corpus.tokens(split))))


@settings(deadline=None)
@given(st.composite(sizes)(), st.integers(0, 1000))
def test_an_epoch_of_training_predicts_every_token_but_one_once(size, epoch):
    length, count = size
    corpus = Counting(sequence_length=length, count=count)
    index = np.arange(corpus.size("train"))
    batch = corpus.examples("train", index, np.full_like(index, epoch))
    shift = int(epoch_shift(np.array([epoch]), length)[0])
    assert 0 <= shift < length
    np.testing.assert_array_equal(batch["inputs"][:, 0], (index * length + shift) % count)
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    predicted = batch["targets"][batch["weight"] == 1]
    np.testing.assert_array_equal(np.sort(predicted), np.delete(np.arange(count), shift))


def test_windows_by_hand():
    tokens = np.array([10, 11, 12, 13, 14, 15, 16], np.uint16)
    batch = windows(tokens, np.array([0, 1, 1]), np.array([0, 0, 2]), 4)
    np.testing.assert_array_equal(batch["inputs"], [[10, 11, 12, 13], [14, 15, 16, 10], [16, 10, 11, 12]])
    np.testing.assert_array_equal(batch["targets"], [[11, 12, 13, 14], [15, 16, 10, 11], [10, 11, 12, 13]])
    np.testing.assert_array_equal(batch["weight"], [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])


def test_windows_that_predict_further_ahead_by_hand():
    tokens = np.array([10, 11, 12, 13, 14, 15, 16], np.uint16)
    batch = windows(tokens, np.array([0, 1]), np.array([0, 0]), 4, ahead=2)
    np.testing.assert_array_equal(batch["inputs"], [[10, 11, 12, 13], [14, 15, 16, 10]])
    np.testing.assert_array_equal(batch["targets"], [[12, 13, 14, 15], [16, 10, 11, 12]])
    np.testing.assert_array_equal(batch["weight"], [[1, 1, 1, 1], [1, 0, 0, 0]])
    corpus = Counting(sequence_length=4, count=10, ahead=2)
    assert (corpus.size("train"), Counting(sequence_length=4, count=10).size("train")) == (2, 3)
    batch = eval_batch(corpus, "train", 0, 2)
    np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 2)


def test_windows_differ_from_epoch_to_epoch():
    shifts = epoch_shift(np.arange(256), 256)
    assert shifts[0] == 0
    assert np.all(shifts[1:] != shifts[:-1])
    assert len(np.unique(shifts)) > 150
    assert np.diff(np.sort(epoch_shift(np.arange(16), 256))).max() <= 32  # evenly spread: twice the mean gap


def test_training_batches_use_the_shift_of_their_epoch():
    corpus = Counting(sequence_length=10, count=103)  # 11 windows an epoch
    batch = train_batch(corpus, 0, 1, 8)  # 8 .. 15 of the stream: epoch 0, then epoch 1
    shift = epoch_shift(np.array([0, 0, 0, 1, 1, 1, 1, 1]), 10)
    assert shift[-1] > 0
    np.testing.assert_array_equal(batch["inputs"][:, 0], (batch["example_id"] * 10 + shift) % 103)


def test_task():
    task = Counting(sequence_length=12).task
    assert (task.kind, task.vocab_size, task.length, task.tokens_per_byte) == ("language", 10_000, 12, 0.25)


def test_a_window_must_fit_into_every_split():
    assert Counting(sequence_length=102).size("train") == 1
    with pytest.raises(UserError, match=r"sequence_length=103 .* 'train' .* 102 tokens"):
        Counting(sequence_length=103)
    with pytest.raises(UserError, match="sequence_length=0"):
        Counting(sequence_length=0)
    with pytest.raises(UserError, match="ahead=0"):
        Counting(ahead=0)
    with pytest.raises(UserError, match=r"sequence_length=102 .* 101 tokens"):
        Counting(sequence_length=102, ahead=2)
