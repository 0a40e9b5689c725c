"""Data sets of encoded pictures, too many for the memory: each is decoded when its batch is made."""

import abc
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jattn.data.dataset import Batch
from jattn.data.decoding import Encoded, decode
from jattn.data.options import check_range
from jattn.data.pictures import Pictures, described
from jattn.errors import UserError


@dataclass(frozen=True)
class EncodedPictures(Pictures):
    """Pictures uint8 (B, stored_size, stored_size, 3), decoded by as many threads as there are processors.

    A picture that cannot be decoded is an empty one of weight 0, so that it counts nowhere and no other example moves.
    """

    image_size: int | None = 224  # pixels a side that the model gets: the middle of a larger picture; None = as stored
    augmentation: str = "random_resized_crop, flip"  # of training pictures (docs/data.md)
    stored_size: int = 256  # pixels the shorter side is brought to on the host; the middle of the longer one is kept
    max_undecodable: float | int = 0.01  # share of a split's pictures that may turn out to be damaged

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "stored_size", 1)
        check_range(self, "max_undecodable", 0, 1)

    @abc.abstractmethod
    def rows(self, split: str) -> tuple[Encoded, np.ndarray]:
        """Where the pictures of a split lie, and which of those belong to it, in their order.

        Raises UserError if there is no such split, or none of its pictures.
        """

    @property
    def stored(self) -> int:
        """Pixels a side of what `examples` returns."""
        return self.stored_size

    def size(self, split: str) -> int:
        """Number of pictures of a split."""
        self.check_split(split)
        return len(self.rows(split)[1])

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Pictures and classes; weight 0 for those that cannot be decoded, 1 for all others.

        Raises UserError if more than `max_undecodable` of the split's pictures have turned out to be damaged.
        """
        self.check_split(split)
        rows, members = self.rows(split)
        places = members[index]
        contents, labels = rows.fetch(places)
        images = np.zeros((len(index), self.stored_size, self.stored_size, 3), np.uint8)
        weight = np.ones(len(index), np.float32)
        for slot, found in enumerate(self._threads.map(self._decoded, contents)):
            if isinstance(found, str):
                weight[slot] = 0
                self._complain(split, rows.name(int(places[slot])), found)
            else:
                images[slot] = found
        return {"inputs": images, "targets": labels, "weight": weight}

    def description(self) -> str:
        """One line for the log."""
        return described(self, f"pictures of {self.path or type(self).__name__}")

    def _decoded(self, content: bytes) -> np.ndarray | str:
        """The picture, or what is wrong with it."""
        try:
            return decode(content, self.stored_size)
        except ValueError as error:
            return str(error)

    def complaints(self, *, final: bool = False) -> list[str]:
        """How many pictures of a split are damaged, when there are 1, 2, 4, 8 ... of them, and at last how many."""
        said = [self._unsaid.popleft() for _ in range(len(self._unsaid))]
        if final:
            counts = ((split, len(names)) for split, names in self._damaged.items())
            said += [f"{self._found(split)}: left out" for split, count in counts if count.bit_count() > 1]
        return said

    def _complain(self, split: str, name: str, reason: str) -> None:
        """Counts a damaged picture."""
        damaged = self._damaged.setdefault(split, {})
        if name in damaged:
            return
        damaged[name] = reason
        size = self.size(split)
        if len(damaged) > self.max_undecodable * size:
            raise UserError(
                f"{self._found(split)}, and max_undecodable={self.max_undecodable} allows "
                f"{int(self.max_undecodable * size)}: replace or remove them, or raise this option"
            )
        if len(damaged).bit_count() == 1:
            self._unsaid.append(f"{self._found(split)}: left out")

    def _found(self, split: str) -> str:
        name, reason = next(reversed(self._damaged[split].items()))
        counted = f"{len(self._damaged[split])} of the {self.size(split):,} pictures of split {split!r}"
        return f"{counted} cannot be decoded, {name} last ({reason})"

    @cached_property
    def _damaged(self) -> dict[str, dict[str, str]]:
        """Names of damaged pictures by split, and what is wrong with each."""
        return {}

    @cached_property
    def _unsaid(self) -> deque[str]:
        return deque()  # batches are made in other threads than the one that asks

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
