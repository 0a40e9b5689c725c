"""Handwritten digits: the 1,797 pictures of 8x8 pixels that scikit-learn carries, so no download is needed.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
1998 (the test part of it; doi:10.24432/C50P49).
"""

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jattn.data.augment import random_shift
from jattn.data.dataset import Batch, Dataset
from jattn.data.options import check_range
from jattn.data.streams import permutation, stream
from jattn.task import Task
from jattn.types import Array, Float, Int, Key


@dataclass(frozen=True)
class Digits(Dataset):
    """Pictures uint8 (B, 8, 8, 1) with values 0..16, and their digit. The split is 70/10/20 within each class."""

    max_shift: int = 1  # augmentation: pixels a training picture may move in each direction
    split_seed: int = 0  # another seed, another division into train, valid and test

    def __post_init__(self):
        check_range(self, "max_shift", 0, 7)
        check_range(self, "split_seed", 0)

    @property
    def task(self) -> Task:
        """Ten classes of pictures."""
        return Task(kind="image", num_classes=10, image_shape=(8, 8, 1))

    def size(self, split: str) -> int:
        """Number of pictures of a split."""
        return len(self._split(split)[1])

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Pictures and digits; every weight is 1."""
        images, digits = self._split(split)
        return {
            "inputs": images[index],
            "targets": digits[index],
            "weight": np.ones(len(index), np.float32),
        }

    def prepare(
        self, inputs: UInt8[Array, "B 8 8 1"], ids: Int[Array, " B"], key: Key[Array, ""] | None
    ) -> Float[Array, "B 8 8 1"]:
        """Pictures in [-1, 1], -1 being the empty background; moved by up to `max_shift` pixels if key is given."""
        if key is not None and self.max_shift:
            inputs = random_shift(inputs, ids, key, self.max_shift)
        return inputs.astype(jnp.float32) / 8 - 1

    def description(self) -> str:
        """One line for the log."""
        sizes = ", ".join(f"{self.size(split):,} {split}" for split in self.splits)
        return f"handwritten digits of 8x8 pixels ({sizes})"

    def _split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        self.check_split(split)
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        table = _table()
        images = table[:, :64].reshape(-1, 8, 8, 1)
        digits = table[:, 64].astype(np.int32)
        parts = {split: [] for split in self.splits}
        for digit in range(10):
            members = np.flatnonzero(digits == digit)
            members = members[permutation(stream("digits", self.split_seed, digit), len(members))]
            ends = [round(0.7 * len(members)), round(0.8 * len(members))]
            for part, chosen in zip(parts.values(), np.split(members, ends), strict=True):
                part.append(chosen)
        index = {split: np.sort(np.concatenate(part)) for split, part in parts.items()}
        return {split: (images[chosen], digits[chosen]) for split, chosen in index.items()}


def _table() -> UInt8[np.ndarray, "N 65"]:
    """Rows of 64 pixels and the digit, from scikit-learn's file.

    What `sklearn.datasets.load_digits` reads, without its import, which took half of the time of every command that
    does not train.
    """
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations
    return np.loadtxt(Path(package, "datasets", "data", "digits.csv.gz"), delimiter=",", dtype=np.uint8)
