"""Arrays that are made once from files, kept on disk and memory-mapped from then on.

An entry is a folder: a file for each array, and `meta.json` with their types, shapes and checksums, what else the maker
wants to remember, and a fingerprint of what the arrays were made from. It is written under a temporary name, read back,
and renamed; one that is half-written, damaged or made from other files is made anew. A lock lets one of several
processes do the work while the others wait for it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jattn.errors import UserError
from jattn.process import cache_folder

FORMAT = 1  # of an entry; another number makes every entry anew
META = "meta.json"
_CHUNK = 2**24  # bytes whose checksum is taken at a time


class Entry(NamedTuple):
    """What an entry of the cache holds.

    Attributes:
      arrays: read-only, mapped from disk, by name.
      facts: what the maker returned.
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class Writer:
    """Writes the arrays of an entry, each from pieces that need not fit into memory together."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.arrays: dict[str, dict[str, Any]] = {}

    def write(self, name: str, pieces: Iterable[np.ndarray], dtype: np.typing.DTypeLike) -> int:
        """Writes pieces (..., any number of axis 0) one behind the other as one array; returns its length."""
        checksum, length, shape = 0, 0, ()
        with (self._folder / f"{name}.bin").open("wb") as file:
            for piece in pieces:
                array = np.ascontiguousarray(piece, dtype)
                data = array.tobytes()
                checksum = zlib.crc32(data, checksum)
                length, shape = length + len(array), array.shape[1:]
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.arrays[name] = {"dtype": np.dtype(dtype).name, "shape": [length, *shape], "crc32": checksum}
        return length


def cached(
    name: str, identity: Mapping[str, Any], fingerprint: Mapping[str, Any], make: Callable[[Writer], dict[str, Any]]
) -> Entry:
    """The entry of a name and identity, made if there is none that is whole and has this fingerprint.

    Args:
      name: begins the folder's name, for people.
      identity: what the entry is of, such as a path and options. JSON.
      fingerprint: what it was made from, such as sizes and times of files. JSON.
      make: writes the arrays and returns the facts to remember. JSON.

    Raises:
      UserError: the cache cannot be written to, or `make` raises it.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder("data") / f"{name}-{digest}"
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(folder.name + ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when the process ends, however it ends
            found = _read(folder, fingerprint)
            return found if found is not None else _make(name, folder, identity, fingerprint, make)


def _make(
    name: str,
    folder: Path,
    identity: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    make: Callable[[Writer], dict[str, Any]],
) -> Entry:
    """Makes the entry; the caller holds its lock."""
    print(f"preparing {name}, once: it will be kept in {folder}", file=sys.stderr)
    for left in folder.parent.glob(f"{folder.name}.part-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    part.mkdir()
    try:
        writer = Writer(part)
        facts = make(writer)
        meta = {"format": FORMAT, "identity": identity, "fingerprint": fingerprint, "facts": facts}
        (part / META).write_text(json.dumps(meta | {"arrays": writer.arrays}))
        if _read(part, fingerprint) is None:
            raise OSError("what was written cannot be read back")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    made = _read(folder, fingerprint)
    if made is None:
        raise OSError("what was written has been changed")
    return made


def _read(folder: Path, fingerprint: Mapping[str, Any]) -> Entry | None:
    """The entry in a folder; None if there is none, it is damaged, or made from something else."""
    try:
        meta = json.loads((folder / META).read_text())
        if (meta["format"], meta["fingerprint"]) != (FORMAT, json.loads(json.dumps(fingerprint))):
            return None
        arrays = {name: _map(folder / f"{name}.bin", facts) for name, facts in meta["arrays"].items()}
        return Entry(arrays, meta["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _map(path: Path, facts: Mapping[str, Any]) -> np.ndarray:
    """The array in a file. Raises ValueError if it is not what was written."""
    dtype, shape = np.dtype(facts["dtype"]), tuple(facts["shape"])
    if path.stat().st_size != dtype.itemsize * int(np.prod(shape)):
        raise ValueError(f"{path} has another size than was written")
    if path.stat().st_size == 0:  # nothing to map
        return np.zeros(shape, dtype)
    array = np.memmap(path, dtype, mode="r", shape=shape)
    data, checksum = memoryview(array.reshape(-1).view(np.uint8)), 0
    for start in range(0, len(data), _CHUNK):
        checksum = zlib.crc32(data[start : start + _CHUNK], checksum)
    if checksum != facts["crc32"]:
        raise ValueError(f"{path} is damaged")
    return array


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns what the operating system refuses within the context into a UserError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write the cache {folder} ({reason}): make room there, or name another folder in JATTN_CACHE"
        ) from error
