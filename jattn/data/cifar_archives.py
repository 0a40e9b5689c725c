"""The archives in which CIFAR-10 and CIFAR-100 are published: Python pickles and binary records, packed or unpacked.

Formats and MD5 sums are those of https://www.cs.toronto.edu/~kriz/cifar.html. A record is the label (CIFAR-100: the
coarse one of 20, then the fine one of 100) and 3,072 bytes, the red, the green and the blue plane of a picture, row by
row. The pickles were written by Python 2: dicts of `data`, uint8 (N, 3072) in the same order, and lists of labels.
"""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from jattn.data.places import get_command
from jattn.errors import UserError

SITE = "https://www.cs.toronto.edu/~kriz"
_PIXELS = 3 * 32 * 32

Labelled = tuple[UInt8[np.ndarray, "N 32 32 3"], Int32[np.ndarray, " N"]]
"""Pictures and their classes."""


@dataclass(frozen=True)
class Archive:
    """One published archive.

    Attributes:
      name: of the file, without `.tar.gz`.
      folder: in which it unpacks.
      size: bytes of the file.
      md5: its sum.
      parts: the files of each part (train, test) in their order, and the number of pictures in each.
      binary: records, not pickles.
      num_classes: the labels are below this number; 100 has coarse labels besides.
    """

    name: str
    folder: str
    size: int
    md5: str
    parts: Mapping[str, Mapping[str, int]]
    binary: bool
    num_classes: int

    @property
    def file(self) -> str:
        """The archive's file."""
        return f"{self.name}.tar.gz"

    @property
    def data_set(self) -> str:
        """Its name in jattn."""
        return f"cifar{self.num_classes}"

    @property
    def url(self) -> str:
        """Where the archive is published."""
        return f"{SITE}/{self.file}"

    @property
    def files(self) -> list[str]:
        """All files with pictures."""
        return [file for part in self.parts.values() for file in part]


def _cifar10(suffix: str) -> dict[str, dict[str, int]]:
    train = {f"data_batch_{number}{suffix}": 10_000 for number in range(1, 6)}
    return {"train": train, "test": {f"test_batch{suffix}": 10_000}}


def _cifar100(suffix: str) -> dict[str, dict[str, int]]:
    return {"train": {f"train{suffix}": 50_000}, "test": {f"test{suffix}": 10_000}}


CIFAR10 = (
    Archive(
        name="cifar-10-python",
        folder="cifar-10-batches-py",
        size=170_498_071,
        md5="c58f30108f718f92721af3b95e74349a",
        parts=_cifar10(""),
        binary=False,
        num_classes=10,
    ),
    Archive(
        name="cifar-10-binary",
        folder="cifar-10-batches-bin",
        size=170_052_171,
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        parts=_cifar10(".bin"),
        binary=True,
        num_classes=10,
    ),
)
CIFAR100 = (
    Archive(
        name="cifar-100-python",
        folder="cifar-100-python",
        size=169_001_437,
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        parts=_cifar100(""),
        binary=False,
        num_classes=100,
    ),
    Archive(
        name="cifar-100-binary",
        folder="cifar-100-binary",
        size=168_513_733,
        md5="03b5dce01913d631647c71ecec9e9cb8",
        parts=_cifar100(".bin"),
        binary=True,
        num_classes=100,
    ),
)


def read(archives: tuple[Archive, ...], path: Path) -> dict[str, Labelled]:
    """Pictures and labels of the parts train and test, from the first form that is found.

    Args:
      archives: the forms of one data set.
      path: a folder that holds an archive or what it unpacks to, an unpacked folder itself, or an archive's file.

    Raises:
      UserError: nothing is there, or what is there is cut off or damaged.
    """
    for archive in archives:
        for folder in (path / archive.folder, path):
            present = [file for file in archive.files if (folder / file).is_file()]
            if present:
                if missing := sorted(set(archive.files) - set(present)):
                    raise UserError(f"{folder} lacks {', '.join(missing)}: unpack {archive.file} again ({archive.url})")
                return _parts(archive, {file: (folder / file).read_bytes() for file in archive.files}, folder)
    for archive in archives:
        for file in (path / archive.file, path):
            if file.is_file() and file.name == archive.file:
                return _parts(archive, _unpacked(archive, file), file)
    wanted = ", ".join(name for archive in archives for name in (archive.file, f"{archive.folder}/"))
    first = archives[0]
    raise UserError(
        f"{path.absolute()} holds none of {wanted}: get one ({first.size / 1e6:.0f} MB) with "
        f"{get_command(first.data_set, path)} (from {first.url}), or name the folder that has it with data.path"
    )


def _unpacked(archive: Archive, file: Path) -> dict[str, bytes]:
    """The files with pictures in a packed archive, which is checked first."""
    size = file.stat().st_size
    if size < archive.size:
        raise UserError(
            f"{file} has {size:,} of {archive.size:,} bytes, so its download was cut off: continue it with "
            f"{_again(archive, file)}"
        )
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "md5").hexdigest()
    if found != archive.md5:
        raise UserError(
            f"{file} is damaged or another file ({size:,} bytes, MD5 {found}; published: {archive.size:,}, "
            f"{archive.md5}): remove it, and get it again with {_again(archive, file)}"
        )
    contents = {}
    with tarfile.open(file, "r|gz") as members:
        for member in members:
            folder, _, name = member.name.partition("/")
            if folder == archive.folder and name in archive.files:
                contents[name] = members.extractfile(member).read()
    return contents


def _again(archive: Archive, file: Path) -> str:
    """The command that gets an archive, or the rest of it; `data get` knows the Python pickles."""
    if archive.binary:
        return f"`curl -L -C - -o {file} {archive.url}`"
    return get_command(archive.data_set, file.parent)


def _parts(archive: Archive, contents: Mapping[str, bytes], source: Path) -> dict[str, Labelled]:
    parse = _records if archive.binary else _pickled
    parts = {}
    for part, files in archive.parts.items():
        pieces = [parse(archive, contents[file], count, f"{source}/{file}") for file, count in files.items()]
        planes = np.concatenate([piece[0] for piece in pieces]).reshape(-1, 3, 32, 32)
        images = np.ascontiguousarray(np.moveaxis(planes, 1, -1))
        parts[part] = images, np.concatenate([piece[1] for piece in pieces]).astype(np.int32)
    return parts


def _records(archive: Archive, content: bytes, count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Planes uint8 (count, 3072) and labels of a file of records."""
    num_labels = 2 if archive.num_classes == 100 else 1
    expected = count * (num_labels + _PIXELS)
    if len(content) != expected:
        raise UserError(
            f"{name} has {len(content):,} bytes where {count:,} pictures take {expected:,}: "
            f"unpack {archive.file} again ({archive.url})"
        )
    table = np.frombuffer(content, np.uint8).reshape(count, num_labels + _PIXELS)
    return table[:, num_labels:], _checked(archive, table[:, num_labels - 1], name)


def _pickled(archive: Archive, content: bytes, count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Planes uint8 (count, 3072) and labels of a pickle."""
    key = b"fine_labels" if archive.num_classes == 100 else b"labels"
    try:
        batch = _Numbers(io.BytesIO(content), encoding="bytes").load()
        planes, labels = np.asarray(batch[b"data"]), np.asarray(batch[key])
        fits = planes.shape == (count, _PIXELS) and planes.dtype == np.uint8 and labels.shape == (count,)
        reason = f"data {planes.dtype} {planes.shape}, labels {labels.shape} where {count:,} pictures belong"
    except Exception as error:  # a damaged pickle may raise anything
        fits, reason = False, f"{type(error).__name__}: {error}"
    if not fits:
        raise UserError(f"{name} cannot be read ({reason}): unpack {archive.file} again ({archive.url})")
    return planes, _checked(archive, labels, name)


def _checked(archive: Archive, labels: np.ndarray, name: str) -> np.ndarray:
    if labels.min() < 0 or labels.max() >= archive.num_classes:
        raise UserError(
            f"{name} has labels {labels.min()} to {labels.max()} where 0 to {archive.num_classes - 1} are allowed: "
            f"unpack {archive.file} again ({archive.url})"
        )
    return labels


class _Numbers(pickle.Unpickler):
    """Reads arrays and plain values; a pickle from elsewhere that names anything else is not executed."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.ndarray.__reduce__(np.empty(0))[0]
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a file of pictures")
