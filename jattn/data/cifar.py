"""CIFAR-10 and CIFAR-100: 60,000 colour pictures of 32x32 pixels, 50,000 of them for training.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, 2009
(https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from jattn.data import cifar_archives, hub, prepared
from jattn.data.cifar_archives import Archive, Labelled
from jattn.data.dataset import Batch
from jattn.data.decoding import Encoded, decode
from jattn.data.options import check_range
from jattn.data.pictures import Pictures, described, held_out
from jattn.errors import UserError

_CHUNK = 1000  # pictures decoded at a time


@dataclass(frozen=True)
class Cifar(Pictures):
    """What CIFAR-10 and CIFAR-100 share. All pictures are held in memory (184 MB)."""

    augmentation: str = "random_crop(padding=4), flip"  # of training pictures (docs/data.md)
    valid_size: int = 5000  # pictures held out of the 50,000; 0 = none are, and valid is the test part

    name: ClassVar[str]
    archives: ClassVar[tuple[Archive, ...]]
    hub_name: ClassVar[str]
    label: ClassVar[str]  # column of the hub's files and of TFDS
    num_classes: ClassVar[int]

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "valid_size", 0, sum(self.archives[0].parts["train"].values()) - 1)

    @property
    def stored(self) -> int:
        """All are of 32x32 pixels."""
        return 32

    def size(self, split: str) -> int:
        """Number of pictures of a split."""
        return len(self._split(split)[1])

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Pictures and classes; every weight is 1."""
        images, labels = self._split(split)
        return {"inputs": images[index], "targets": labels[index], "weight": np.ones(len(index), np.float32)}

    def description(self) -> str:
        """One line for the log."""
        return described(self, f"{self.name} from {self.source}")

    def _split(self, split: str) -> Labelled:
        self.check_split(split)
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[str, Labelled]:
        parts = self._parts
        images, labels = parts["train"]
        if not self.valid_size:
            return {"train": parts["train"], "valid": parts["test"], "test": parts["test"]}
        rest, held = held_out(self.name, self.split_seed, len(labels), self.valid_size)
        return {"train": (images[rest], labels[rest]), "valid": (images[held], labels[held]), "test": parts["test"]}

    @cached_property
    def _parts(self) -> dict[str, Labelled]:
        """The published parts, train and test."""
        if self.source == "folder":
            return cifar_archives.read(self.archives, Path(self.path or f"data/{self.name}"))
        parts = {}
        for part, files in self.archives[0].parts.items():
            if self.source == "huggingface":
                rows = hub.read(self.path, self.hub_name, part, image="img", label=self.label)
            else:
                rows = prepared.read(self.path, self.name, part, image="image", label="label")
            if len(rows) != sum(files.values()):
                raise UserError(
                    f"part {part!r} of {rows.place} has {len(rows):,} pictures where {self.name} has "
                    f"{sum(files.values()):,}: get it again"
                )
            parts[part] = _in_memory(rows)
        return parts


def _in_memory(rows: Encoded) -> Labelled:
    """All rows, decoded."""
    images, labels = np.empty((len(rows), 32, 32, 3), np.uint8), np.empty(len(rows), np.int32)
    for start in range(0, len(rows), _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, len(rows)))
        contents, labels[chunk] = rows.fetch(chunk)
        for place, content in zip(chunk.tolist(), contents, strict=True):
            try:
                image = decode(content)
            except ValueError as error:
                raise UserError(f"{rows.name(place)} cannot be decoded ({error}): get it again") from None
            if image.shape != (32, 32, 3):
                raise UserError(f"{rows.name(place)} has shape {image.shape} where (32, 32, 3) belongs")
            images[place] = image
    return images, labels


@dataclass(frozen=True)
class CIFAR10(Cifar):
    """Ten classes."""

    mean: tuple[float | int, ...] = (0.4914, 0.4822, 0.4465)  # of the training part
    std: tuple[float | int, ...] = (0.2470, 0.2435, 0.2616)

    name: ClassVar[str] = "cifar10"
    archives: ClassVar[tuple[Archive, ...]] = cifar_archives.CIFAR10
    hub_name: ClassVar[str] = "uoft-cs/cifar10"
    label: ClassVar[str] = "label"
    num_classes: ClassVar[int] = 10


@dataclass(frozen=True)
class CIFAR100(Cifar):
    """A hundred classes (the fine labels)."""

    mean: tuple[float | int, ...] = (0.5071, 0.4865, 0.4409)
    std: tuple[float | int, ...] = (0.2673, 0.2564, 0.2762)

    name: ClassVar[str] = "cifar100"
    archives: ClassVar[tuple[Archive, ...]] = cifar_archives.CIFAR100
    hub_name: ClassVar[str] = "uoft-cs/cifar100"
    label: ClassVar[str] = "fine_label"
    num_classes: ClassVar[int] = 100
