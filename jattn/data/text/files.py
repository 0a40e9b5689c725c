"""Text in files of several kinds, as pieces: a line with its newline, or a part of a very long one, in UTF-8.

Whoever reads the same files gets the same pieces, and joined they are the text. A piece never ends within a character,
nor within a word if a space is near.
"""

import codecs
import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jattn.errors import UserError

LIMIT = 2**16  # bytes of the longest piece
_BATCH = 2**20  # bytes of the pieces that are tokenised together
_SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
_SPLIT_NAME = re.compile(rf"(?:^|[-._ ])({'|'.join(_SPLITS)})(?=[-._ ]|$)", re.IGNORECASE)


class Damaged(UserError):
    """A file is not what it was when it was published; `fault` says so without the way out."""

    def __init__(self, fault: str):
        super().__init__(f"{fault}: get it again")
        self.fault = fault


class File(NamedTuple):
    """A file, or a member of a zip archive."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.member} in {self.path}" if self.member else str(self.path)


def fingerprint(files: Iterable[File]) -> list[list]:
    """What tells files from what they were or will be: name, size in bytes, time of change in nanoseconds."""
    facts = []
    for file in files:
        with explained(file):
            status = file.path.stat()
        facts.append([str(file.path), file.member, status.st_size, status.st_mtime_ns])
    return facts


def find(folder: Path, pattern: str) -> list[File]:
    """The files below a folder that fit a glob pattern, hidden ones left out, in the order of their names."""
    found = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
    return [File(p) for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def by_split(folder: Path, files: Iterable[File]) -> dict[str, list[File]]:
    """Files by the split that the name of a folder or file says: train, valid (validation, val, dev) or test."""
    parts: dict[str, list[File]] = {}
    for file in files:
        for name in file.path.relative_to(folder).parts:
            if said := _SPLIT_NAME.search(name):
                parts.setdefault(_SPLITS[said[1].lower()], []).append(file)
                break
    return parts


def pieces(file: File, text: bool = True, column: str = "text", empty: bytes = b"\n") -> Iterator[bytes]:
    """The pieces of a file; of a parquet file, those of each row of a column, which ends with a newline.

    Args:
      file: what is read.
      text: whether it must be UTF-8; tokenizers of bytes read anything.
      column: of a parquet file.
      empty: what stands for an empty row of a parquet file.

    Raises:
      UserError: it cannot be read, is truncated, is not UTF-8 although it must be, or has no such column.
    """
    if file.path.suffix == ".parquet":
        for row in parquet_rows(file.path, [column]):
            yield from row_pieces(row[column] or "", empty)
    else:
        with opened(file) as stream:
            yield from lines(stream, str(file), text)


def lines(stream: io.BufferedIOBase, name: str, text: bool = True) -> Iterator[bytes]:
    """The pieces of a stream. Raises UserError if it must be UTF-8 (`text`) and is not; `name` is for the message."""
    carry, offset = b"", 0
    while data := stream.readline(LIMIT - len(carry)):
        data = carry + data
        piece = data if data.endswith(b"\n") or len(data) < LIMIT else data[: _end(data)]
        carry = data[len(piece) :]
        _check(piece, name, offset, text)
        offset += len(piece)
        yield piece
    if carry:
        _check(carry, name, offset, text)
        yield carry


def row_pieces(row: str, empty: bytes = b"\n") -> Iterator[bytes]:
    """The pieces of a row of a table, which gets a newline if it does not end with one; `empty` if it is empty."""
    text = row if row.endswith("\n") else row + "\n"
    for line in re.findall(rb"[^\n]*\n", text.encode()) if row else [empty]:
        while len(line) > LIMIT:
            end = _end(line[:LIMIT])
            yield line[:end]
            line = line[end:]
        yield line


def joined(files: list[File], **options) -> Iterator[bytes]:
    """The pieces of several files; a file that does not end with a newline gets one, unless it is the only one."""
    for file in files:
        piece = b"\n"
        for piece in pieces(file, **options):
            yield piece
        if len(files) > 1 and not piece.endswith(b"\n"):
            yield b"\n"


def batches(stream: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Pieces in lists of about a megabyte."""
    batch, size = [], 0
    for piece in stream:
        batch.append(piece)
        size += len(piece)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def parquet_rows(path: Path, columns: list[str]) -> Iterator[dict]:
    """The rows of a parquet file, some of its columns, read a batch at a time.

    Raises:
      UserError: it is damaged, or has no such column.
    """
    import pyarrow
    from pyarrow import parquet

    with explained(File(path)), contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(parquet.ParquetFile(path))
            if missing := set(columns) - set(file.schema_arrow.names):
                known = ", ".join(file.schema_arrow.names)
                raise UserError(f"{path} has no column {sorted(missing)[0]!r}: its columns are {known}")
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise Damaged(f"{path} is truncated or damaged ({reason})") from error


@contextlib.contextmanager
def opened(file: File) -> Iterator[io.BufferedIOBase]:
    """A file or a member of an archive, for reading bytes. What is wrong with it becomes a UserError."""
    with explained(file), contextlib.ExitStack() as stack:
        try:
            if not file.member:
                yield stack.enter_context(file.path.open("rb"))
                return
            archive = stack.enter_context(zipfile.ZipFile(file.path))
            if file.member not in archive.namelist():
                raise Damaged(f"{file.path} has no member {file.member}, so it is another archive")
            yield stack.enter_context(archive.open(file.member))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Damaged(f"{file.path} is truncated or damaged ({error})") from error


@contextlib.contextmanager
def explained(file: File) -> Iterator[None]:
    """Turns what the operating system refuses within the context into a UserError about the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from error


def _end(data: bytes) -> int:
    """Where to cut a long line: before its last space, else behind its last whole character."""
    space = data.rfind(b" ", 1)
    if space > 0:
        return space
    try:
        return codecs.utf_8_decode(data, "strict", False)[1] or len(data)
    except UnicodeDecodeError:
        return len(data)


def _check(piece: bytes, name: str, offset: int, text: bool) -> None:
    if not text:
        return
    try:
        piece.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 (byte {offset + error.start} is 0x{piece[error.start]:02x}): convert it with iconv, "
            "leave it out with option pattern of data set text, or read bytes with data.tokenizer=bytes"
        ) from None
