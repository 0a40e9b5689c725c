"""CIFAR-10 and CIFAR-100: 60,000 colour pictures of 32x32 pixels, 50,000 of them for training.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, 2009
(https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jattn.data import cifar_archives, hub, prepared
from jattn.data.cache import Writer, cached
from jattn.data.cifar_archives import Archive, Labelled
from jattn.data.dataset import Batch
from jattn.data.decoding import Encoded, decode
from jattn.data.options import check_range
from jattn.data.pictures import Pictures, described, held_out
from jattn.data.places import data_folder
from jattn.data.text.files import File, fingerprint
from jattn.errors import UserError

_CHUNK = 1000  # pictures decoded at a time
_FORMAT = 1  # of the decoded pictures on disk; another number has them decoded anew


@dataclass(frozen=True)
class Cifar(Pictures):
    """What CIFAR-10 and CIFAR-100 share. All pictures are held in memory (184 MB).

    Encoded ones, of `huggingface` and `tfds`, are decoded once and kept on disk (`jattn.data.cache`).
    """

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
            return cifar_archives.read(self.archives, data_folder(self.name, self.path))
        made = cached(
            self.name,
            {"source": self.source, "path": self.path},
            {"format": _FORMAT, "files": fingerprint(File(file) for part in self._sizes for file in self._files(part))},
            self._make,
        )
        return {part: (made.arrays[f"{part}_images"], made.arrays[f"{part}_labels"]) for part in self._sizes}

    @property
    def _sizes(self) -> dict[str, int]:
        """Pictures of each published part."""
        return {part: sum(files.values()) for part, files in self.archives[0].parts.items()}

    def _files(self, part: str) -> list[Path]:
        """What the encoded pictures of a part are read from."""
        if self.source == "huggingface":
            return hub.files(self.path, self.hub_name, part)
        return prepared.files(self.path, self.name, part)

    def _make(self, writer: Writer) -> dict[str, Any]:
        """Writes all pictures and classes, decoded."""
        for part, size in self._sizes.items():
            if self.source == "huggingface":
                rows = hub.read(self.path, self.hub_name, part, image="img", label=self.label)
            else:
                rows = prepared.read(self.path, self.name, part, image="image", label="label")
            if len(rows) != size:
                raise UserError(
                    f"part {part!r} of {rows.place} has {len(rows):,} pictures where {self.name} has {size:,}: "
                    "get it again"
                )
            labels = []
            writer.write(f"{part}_images", _decoded(rows, labels), np.uint8)
            writer.write(f"{part}_labels", labels, np.int32)
        return {}


def _decoded(rows: Encoded, labels: list[np.ndarray]) -> Iterator[np.ndarray]:
    """All pictures in pieces, whose classes are appended to `labels`."""
    for start in range(0, len(rows), _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, len(rows)))
        contents, classes = rows.fetch(chunk)
        images = []
        for place, content in zip(chunk.tolist(), contents, strict=True):
            try:
                image = decode(content)
            except ValueError as error:
                raise UserError(f"{rows.name(place)} cannot be decoded ({error}): get it again") from None
            if image.shape != (32, 32, 3):
                raise UserError(f"{rows.name(place)} has shape {image.shape} where (32, 32, 3) belongs")
            images.append(image)
        labels.append(classes)
        yield np.stack(images)


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
