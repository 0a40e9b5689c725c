"""Data sets that are computed: drawn at random once, when a split is first asked for, and kept in memory."""

import abc
import itertools
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jattn.data.dataset import Batch, Dataset
from jattn.data.options import check_range
from jattn.data.streams import stream
from jattn.errors import UserError

_SHARES = {"train": range(0, 8), "valid": range(8, 9), "test": range(9, 10)}
_PATIENCE = 16  # chunks without a new example before the draw is given up


@dataclass(frozen=True)
class Generated(Dataset):
    """Examples drawn from one random stream a split, each different from all others of all splits.

    Example i of a split is a function of the options that shape an example, `seed`, the split and i: asking for
    more examples leaves the first ones as they are. That no example is in two splits is decided by a hash of its
    inputs, which says in which split it may be.
    """

    train_size: int = 20_000  # examples
    valid_size: int = 2_000
    test_size: int = 2_000
    seed: int = 0  # of the data, not of the training

    def __post_init__(self):
        for option in ("train_size", "valid_size", "test_size"):
            check_range(self, option, 1)
        check_range(self, "seed", 0)

    @abc.abstractmethod
    def draw(self, bits: np.random.Philox) -> Batch:
        """A chunk of independent random examples (`inputs`, `targets`, `weight`), possibly fewer than tried."""

    def size(self, split: str) -> int:
        """Number of examples of a split."""
        self.check_split(split)
        return getattr(self, f"{split}_size")

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Int32 inputs and targets, float32 weights."""
        table = self._table(split)
        return {
            "inputs": table["inputs"][index].astype(np.int32),
            "targets": table["targets"][index].astype(np.int32),
            "weight": table["weight"][index].astype(np.float32),
        }

    def _table(self, split: str) -> Batch:
        if split not in self._tables:
            self._tables[split] = self._generate(split)
        return self._tables[split]

    @cached_property
    def _tables(self) -> dict[str, Batch]:
        return {}

    def _generate(self, split: str) -> Batch:
        size = self.size(split)
        chunks, found, seen, idle = [], 0, set(), 0
        for chunk in itertools.count():
            drawn = self.draw(stream(type(self).__name__, self.seed, self.splits.index(split), chunk))
            new = []
            for row, inputs in enumerate(drawn["inputs"]):
                key = inputs.tobytes().rstrip(b"\0")  # whatever the padding, the split is the same
                if zlib.crc32(key) % 10 in _SHARES[split] and key not in seen:
                    seen.add(key)
                    new.append(row)
            chunks.append({name: array[new] for name, array in drawn.items()})
            found += len(new)
            idle = 0 if new else idle + 1
            if found >= size or idle == _PATIENCE:
                break
        if found < size:
            raise UserError(
                f"{self.description()}: only {found} different examples of split {split!r} could be drawn, "
                f"{size} were asked for; allow longer examples or ask for fewer ({split}_size)"
            )
        return {name: np.concatenate([chunk[name] for chunk in chunks])[:size] for name in chunks[0]}
