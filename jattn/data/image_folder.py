"""Pictures in folders, one for each class."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from jattn.data.decoding import Encoded
from jattn.data.encoded_pictures import EncodedPictures
from jattn.data.options import check_range
from jattn.data.places import data_folder
from jattn.data.streams import permutation, stream
from jattn.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
SPLIT_FOLDERS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}


class Folder(Encoded):
    """All pictures in the class folders of a folder, classes and files in the order of their names."""

    def __init__(self, path: Path, classes: Iterable[str]):
        """Looks through the folders of the given classes; those that are missing have no picture."""
        self.place = str(path)
        names, counts = [], []
        for name in classes:
            files = sorted(_pictures(path / name))
            if (path / name).is_dir() and not files:
                raise UserError(
                    f"class folder {path / name} holds no picture ({' '.join(SUFFIXES)}): add some, or remove it"
                )
            names += [os.fsencode(file) for file in files]
            counts.append(len(files))
        self._files = np.array(names, np.bytes_)  # of a million names the bytes alone, in place of as many objects
        self.classes = np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    def __len__(self) -> int:
        return len(self._files)

    def fetch(self, index: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        """The files of the pictures `index` (B,), and their classes."""
        return [_content(self.name(place)) for place in index.tolist()], self.classes[index]

    def name(self, place: int) -> str:
        """The path of a picture's file."""
        return os.path.join(self.place, os.fsdecode(self._files[place].item()))


def _pictures(folder: Path) -> Iterable[str]:
    """The paths, from the folder above, of the pictures in a class folder and below."""
    for place, _, files in os.walk(folder):
        for file in files:
            if file.lower().endswith(SUFFIXES):
                yield os.path.relpath(os.path.join(place, file), folder.parent)


def _content(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def class_names(path: Path) -> list[str]:
    """The class folders in a folder. Raises UserError if there is none."""
    if not path.is_dir():
        raise UserError(f"folder {path.absolute()} does not exist: name one with a folder for each class by data.path")
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{path.absolute()} holds no class folders: put the pictures of each class into one of its own")
    return names


@dataclass(frozen=True)
class ImageFolder(EncodedPictures):
    """`path/class/picture.jpg`, divided at random within each class, or `path/train/class/picture.jpg`.

    In the second form there may be folders `valid` (or `val`, `validation`) and `test` besides; without `valid`, a
    share of each training class is held out.
    """

    sources: ClassVar[tuple[str, ...]] = ("folder",)

    valid_share: float | int = 0.1  # of each class, where `path` has no folder `valid`
    test_share: float | int = 0.1  # of each class, where `path` has no folder `train`

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "valid_share", 0, 1)
        check_range(self, "test_share", 0, 1)

    @property
    def num_classes(self) -> int:
        """Number of class folders."""
        return len(self._names)

    def rows(self, split: str) -> tuple[Folder, np.ndarray]:
        """Where the pictures of a split lie, and which of those belong to it."""
        rows, members = self._splits[split]
        if not len(members):
            raise UserError(
                f"split {split!r} of {self._path} is empty: add a folder {split} with a folder for each class, "
                f"or more pictures, or a larger share (valid_share={self.valid_share}, test_share={self.test_share})"
            )
        return rows, members

    @cached_property
    def _path(self) -> Path:
        return data_folder("image_folder", self.path)

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """The folders of the splits; of none of them if the classes lie in the path itself."""
        found = {}
        for split, names in SPLIT_FOLDERS.items():
            if there := [self._path / name for name in names if (self._path / name).is_dir()]:
                found[split] = there[0]
        return found if "train" in found else {}

    @cached_property
    def _names(self) -> list[str]:
        names = class_names(self._folders.get("train", self._path))
        for folder in self._folders.values():
            if unknown := sorted(set(class_names(folder)) - set(names)):
                raise UserError(f"{folder} has class {unknown[0]!r}, which {self._folders['train']} has not")
        return names

    @cached_property
    def _splits(self) -> dict[str, tuple[Folder, np.ndarray]]:
        if not self._folders:
            rows = Folder(self._path, self._names)
            return {
                split: (rows, part) for split, part in self._divided(rows, self.valid_share, self.test_share).items()
            }
        splits = {"test": (Folder(self._path, ()), np.arange(0))}  # unless there is a folder
        for split, folder in self._folders.items():
            rows = Folder(folder, self._names)
            splits[split] = rows, np.arange(len(rows))
        if "valid" not in splits:
            rows, _ = splits["train"]
            divided = self._divided(rows, self.valid_share, 0)
            splits |= {split: (rows, divided[split]) for split in ("train", "valid")}
        return splits

    def _divided(self, rows: Folder, valid_share: float | int, test_share: float | int) -> dict[str, np.ndarray]:
        """A random division into train, valid and test, the same shares of each class."""
        parts = {split: [] for split in self.splits}
        for label in range(len(self._names)):
            members = np.flatnonzero(rows.classes == label)
            members = members[permutation(stream("image_folder", self.split_seed, label), len(members))]
            valid, test = (round(share * len(members)) for share in (valid_share, test_share))
            pieces = np.split(members, [max(0, len(members) - valid - test), max(0, len(members) - test)])
            for part, piece in zip(parts.values(), pieces, strict=True):
                part.append(piece)
        return {split: np.sort(np.concatenate(part)) for split, part in parts.items()}
