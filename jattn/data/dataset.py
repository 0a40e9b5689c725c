"""What a data set is, and how its batches are made: batch n is a function of (seed, n) and of nothing else.

So a run that is interrupted and continued, on however many devices or processes, sees the same examples.
"""

import abc
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar

import grain
import numpy as np

from jattn.data.streams import permutation, stream
from jattn.data.text.tokenizers import Tokenizer
from jattn.errors import UserError, unknown
from jattn.task import Task
from jattn.types import Array, Float, Int, Key, Shaped

Batch = dict[str, np.ndarray]
"""`inputs` (B, ...), `targets` and float32 `weight` ((B,), or (B, T) for language), int32 `example_id` (B,)."""


class Dataset(abc.ABC):
    """Examples that can be asked for by number. Subclasses are frozen dataclasses; their fields are its options.

    A data set that can be read from elsewhere than the package names those places in `sources` and takes two
    more fields, `source` and `path`, which `jattn.data.build` fills from the config.
    """

    sources: ClassVar[tuple[str, ...]] = ("embedded",)
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")

    @property
    @abc.abstractmethod
    def task(self) -> Task:
        """The sizes that the data asks of a model."""

    def task_of(self, split: str) -> Task:
        """The task, with what differs from split to split: tokens per byte."""
        return self.task

    @abc.abstractmethod
    def size(self, split: str) -> int:
        """Number of examples of a split. Raises UserError if there is no such split."""

    @abc.abstractmethod
    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """The examples `index` (B,) as `inputs`, `targets` and `weight`, all NumPy arrays.

        `epoch` (B,) says in which pass each one is seen, for data that is cut anew in every pass;
        evaluation always sees epoch 0.
        """

    @abc.abstractmethod
    def description(self) -> str:
        """One line for the log."""

    @property
    def fitted(self) -> Tokenizer | None:
        """The tokenizer that its tokens are of, None if they are no text."""
        return None

    def kept(self) -> dict[str, str]:
        """Texts by file name that a run keeps, because its weights mean nothing without them: a vocabulary."""
        return {}

    def prepare(
        self, inputs: Shaped[Array, "B ..."], ids: Int[Array, " B"], key: Key[Array, ""] | None
    ) -> Shaped[Array, "B ..."]:
        """What the model gets, from `inputs` as stored: pure JAX, runs inside the compiled step.

        With a key, examples are augmented at random, each by `fold_in(key, id)`: whatever batch, device or
        place in the batch an example is in, it is changed in the same way.
        """
        return inputs

    def mix(
        self, inputs: Shaped[Array, "B ..."], others: Shaped[Array, "B ..."], ids: Int[Array, " B"], key: Key[Array, ""]
    ) -> tuple[Shaped[Array, "B ..."], Float[Array, " B"] | None]:
        """Training examples, prepared, mixed with others of their batch, and the share that each keeps of itself.

        Which one is mixed with which the step decides (`jattn.data.augment.partner`). None: nothing is mixed.
        """
        return inputs, None

    def complaints(self, *, final: bool = False) -> list[str]:
        """What is wrong with the examples read so far and has not been said yet; a line for the log each.

        final: nothing more is read, so that what was held back, not to fill the log, is said too.
        """
        return []

    def check_split(self, split: str) -> None:
        """Raise UserError if there is no such split."""
        if split not in self.splits:
            raise unknown("split", split, self.splits)


ALL = slice(None)


def train_batch(dataset: Dataset, seed: int, n: int, batch_size: int, rows: slice = ALL) -> Batch:
    """Batch n of the endless stream of training examples, never padded, or some rows of it.

    The stream is the training split in a new order in each epoch, the epochs joined without a gap: a batch may
    begin in one and end in the next. The order is a function of (seed, epoch).
    """
    if seed < 0:
        raise UserError(f"seed is {seed}: it must be 0 or more")
    size = dataset.size("train")
    epoch, place = np.divmod(n * batch_size + np.arange(batch_size)[rows], size)
    index = np.empty(len(place), np.int64)
    for e in range(epoch[0], epoch[-1] + 1):
        in_epoch = epoch == e
        index[in_epoch] = _order(size, seed, e)[place[in_epoch]]
    return {**dataset.examples("train", index, epoch), "example_id": index.astype(np.int32)}


def eval_batch(dataset: Dataset, split: str, n: int, batch_size: int, rows: slice = ALL) -> Batch:
    """Batch n of a split in its own order, 0 <= n < num_eval_batches, or some rows of it.

    What is missing from the last batch is filled with copies of example 0 of weight 0.
    """
    batches = num_eval_batches(dataset, split, batch_size)
    if not 0 <= n < batches:
        raise IndexError(f"evaluation batch {n} of split {split!r}, which has {batches}")
    index = n * batch_size + np.arange(batch_size)[rows]
    real = index < dataset.size(split)
    index = np.where(real, index, 0)
    batch = dataset.examples(split, index, np.zeros_like(index))
    weight = batch["weight"]
    weight = weight * real.astype(np.float32).reshape(-1, *(1,) * (weight.ndim - 1))
    return {**batch, "weight": weight, "example_id": index.astype(np.int32)}


def num_eval_batches(dataset: Dataset, split: str, batch_size: int) -> int:
    """How many batches hold every example of a split once."""
    return -(-dataset.size(split) // batch_size)


def prefetched(
    make: Callable[[int], Batch], start: int, stop: int, buffer: int, num_threads: int = 1
) -> grain.DatasetIterator:
    """Iterate over `make(start) .. make(stop - 1)`, in order, with up to `buffer` of them made ahead.

    `make` runs in `num_threads` threads (more than one pays when it waits for files), or in the caller's if
    `buffer` is 0; what it raises is raised by `next`. Close the iterator if you leave before its end.
    """
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffer)
    return iter(grain.MapDataset.source(_Batches(make, start, stop)).to_iter_dataset(options))


class _Batches:
    """grain's RandomAccessDataSource whose item is a batch."""

    def __init__(self, make: Callable[[int], Batch], start: int, stop: int):
        self._make, self._range = make, range(start, stop)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, place: int) -> Batch:
        return self._make(self._range[place])


@lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the training examples in one epoch; remembered, for it is asked for at every batch."""
    order = permutation(stream("order", seed, epoch), size)
    order.setflags(write=False)
    return order
