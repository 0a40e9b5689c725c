"""A text in windows that overlap, so that more of its tokens are predicted from a long context."""

from dataclasses import dataclass

import numpy as np

from jattn.data import Batch, Dataset
from jattn.data.corpus import Corpus
from jattn.errors import UserError, unknown
from jattn.models.transformer import Transformer

AVERAGES = ("tokens", "windows")


@dataclass(frozen=True)
class Windows:
    """Windows of `length` tokens, each beginning `stride` tokens after the one before.

    average: "tokens" counts every token of the text (but the first, which nothing predicts) once, in the window where
      it has most context: in the first window all, in later ones the last `stride`. "windows" is the mean over whole
      windows of each one's mean, so that tokens count as often as windows hold them, and what is left at the end of
      the text not at all; the released code of neural attention does so, with windows of 1024 and stride 512.
    """

    length: int
    stride: int
    average: str

    def count(self, predicted: int) -> int:
        """How many windows a text has, of which so many tokens are predicted."""
        rest = predicted - self.length
        return 1 + (rest // self.stride if self.average == "windows" else -(-max(0, rest) // self.stride))

    def batch(self, tokens: np.ndarray, n: int, batch_size: int) -> Batch:
        """Batch n of the windows; what there is no window for has weight 0."""
        predicted = len(tokens) - 1
        index = n * batch_size + np.arange(batch_size)
        inside = np.arange(self.length)[None]
        place = index[:, None] * self.stride + inside
        counted = (place < predicted) & (index < self.count(predicted))[:, None]
        if self.average == "tokens":
            counted &= (index == 0)[:, None] | (inside >= self.length - self.stride)
        return {
            "inputs": tokens.take(place, mode="clip").astype(np.int32),
            "targets": tokens.take(place + 1, mode="clip").astype(np.int32),
            "weight": counted.astype(np.float32),
            "example_id": index.astype(np.int32),
        }


def windows_of(
    dataset: Dataset, model: Transformer, split: str, length: int | None, stride: int | None, average: str
) -> Windows | None:
    """The windows asked for; None where nothing was, and a split's own examples are evaluated.

    Args:
      dataset: of the run.
      model: of the run.
      split: of the data set.
      length: None = as in training.
      stride: None = the length, and half of it where windows are averaged.
      average: one of AVERAGES.

    Raises:
      UserError: the data is no running text, or a number does not fit it or the model.
    """
    if average not in AVERAGES:
        raise unknown("average", average, AVERAGES)
    if length is None and stride is None and average == "tokens":
        return None
    if not isinstance(dataset, Corpus) or not dataset.is_running_text:
        raise UserError(
            "window, stride and average are those of a running text, which this data set is not: leave them"
        )
    length = dataset.sequence_length if length is None else length
    if stride is None:
        stride = max(1, length // 2) if average == "windows" else length
    predicted = len(dataset.tokens(split)) - 1
    if length < 1 or (model.max_length is not None and length > model.max_length):
        raise UserError(f"window={length} must lie between 1 and the model's context of {model.max_length} tokens")
    if not 1 <= stride <= length:
        raise UserError(f"stride={stride} must lie between 1 and the window's {length} tokens, or some are left out")
    if average == "windows" and length > predicted:
        raise UserError(f"window={length} is longer than split {split!r}, which has {predicted} tokens to predict")
    return Windows(length, stride, average)
