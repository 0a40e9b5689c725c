"""Language modelling over one long row of tokens: windows for training and evaluation."""

import abc
from dataclasses import dataclass

import numpy as np

from jattn.data.dataset import Batch, Dataset
from jattn.data.options import check_range
from jattn.errors import UserError
from jattn.task import Task


@dataclass(frozen=True)
class Corpus(Dataset):
    """Windows of `sequence_length` tokens from a row of tokens; a subclass says which tokens each split has.

    Evaluation takes consecutive windows, so every token of the split but the first is predicted exactly once.
    Training does the same from another starting point in every epoch, the row closed to a circle.
    """

    sequence_length: int = 256  # tokens of a window
    ahead: int = 1  # which of the tokens after the one just read is to be predicted: 1 = the next

    def __post_init__(self):
        check_range(self, "sequence_length", 1)
        check_range(self, "ahead", 1)
        for split in self.splits:
            predicted = len(self.tokens(split)) - self.ahead
            if self.sequence_length > predicted:
                raise UserError(
                    f"sequence_length={self.sequence_length} is longer than split {split!r} of "
                    f"{type(self).__name__}, which has {predicted} tokens to predict: choose a shorter one"
                )

    @property
    def is_running_text(self) -> bool:
        """Whether each token predicts the next, so that windows may begin anywhere."""
        return self.ahead == 1

    @abc.abstractmethod
    def tokens(self, split: str) -> np.ndarray:
        """All tokens of a split: a 1-d array of integers."""

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Tokens are 0 .. vocab_size - 1."""

    @property
    @abc.abstractmethod
    def tokens_per_byte(self) -> float | None:
        """Tokens for a byte of the original text, None if it has no bytes."""

    @property
    def tokens_per_character(self) -> float | None:
        """Tokens for a character of the original text, None if it has none."""
        return None

    @property
    def task(self) -> Task:
        """Next-token prediction."""
        return Task(
            kind="language",
            vocab_size=self.vocab_size,
            length=self.sequence_length,
            tokens_per_byte=self.tokens_per_byte,
            tokens_per_character=self.tokens_per_character,
        )

    def size(self, split: str) -> int:
        """Number of windows that it takes to predict every token of a split but the first (`ahead`)."""
        return -(-(len(self.tokens(split)) - self.ahead) // self.sequence_length)

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Windows of tokens, the tokens that follow, and weight 0 behind the last token of the epoch."""
        shift = epoch_shift(epoch, self.sequence_length)
        return windows(self.tokens(split), index, shift, self.sequence_length, self.ahead)


def windows(tokens: np.ndarray, index: np.ndarray, shift: np.ndarray, length: int, ahead: int = 1) -> Batch:
    """Windows `index` (B,) of a row of N tokens that is closed to a circle and entered at `shift` (B,).

    Window i begins at token i * length + shift. For one shift, the windows 0 .. ceil((N - ahead) / length) - 1 read
    N - ahead tokens and predict the one that is `ahead` of each of them once; the places left over in the last one
    have weight 0.
    Returns int32 inputs and targets and float32 weight, all (B, length).
    """
    place = index[:, None] * length + np.arange(length)[None]
    start = place + shift[:, None]
    return {
        "inputs": tokens.take(start, mode="wrap").astype(np.int32),
        "targets": tokens.take(start + ahead, mode="wrap").astype(np.int32),
        "weight": (place < len(tokens) - ahead).astype(np.float32),
    }


def epoch_shift(epoch: np.ndarray, length: int) -> np.ndarray:
    """Where the windows of an epoch begin: 0 in epoch 0, then a hash of the epoch in [0, length).

    Fibonacci hashing (Knuth, The Art of Computer Programming, vol. 3, section 6.4): the multiples of the golden
    ratio, so the shifts of successive epochs divide a window's length as evenly as any number of epochs allows.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio; the product wraps around
    high = (epoch.astype(np.uint64) * golden) >> np.uint64(32)
    return ((high * np.uint64(length)) >> np.uint64(32)).astype(np.int64)
