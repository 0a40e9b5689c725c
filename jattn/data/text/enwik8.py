"""enwik8: the first 100,000,000 bytes of the English Wikipedia of 3 March 2006, with its markup.

M. Mahoney, Large Text Compression Benchmark, https://mattmahoney.net/dc/textdata.html.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from jattn.data.places import data_folder, missing
from jattn.data.text.corpora import TextCorpus
from jattn.data.text.files import Damaged, File, opened, pieces

URL = "https://mattmahoney.net/dc/enwik8.zip"


@dataclass(frozen=True)
class Enwik8(TextCorpus):
    """Divided 90/5/5: millions of bytes if bytes are the tokens, else shares of the characters.

    Bytes are what published bits per character count. With `data.tokenizer=characters` it is what the source of
    periodic masking trains on (Lookatator/Adaptive-nanoGPT, prep_enwik8.py): one table of all characters.
    """

    sources = ("folder",)
    SIZE: ClassVar[int] = 100_000_000  # bytes
    SHA1: ClassVar[str] = "57b8363b814821dc9d47aa4d41f58733519076b2"

    label = "enwik8"
    published = "enwik8"

    @cached_property
    def place(self) -> Path:
        """The folder, the file or the archive."""
        return data_folder("enwik8", self.path)

    def files(self) -> list[File]:
        """The file, unpacked or not."""
        return [self._file]

    def verify(self) -> None:
        """Checks size and SHA-1."""
        size, digest = 0, hashlib.sha1(usedforsecurity=False)
        with opened(self._file) as stream:
            while data := stream.read(2**20):
                size += len(data)
                digest.update(data)
        if size != self.SIZE:
            raise Damaged(f"{self._file} has {size:,} bytes instead of {self.SIZE:,}")
        if digest.hexdigest() != self.SHA1:
            raise Damaged(f"{self._file} is damaged (its SHA-1 is not {self.SHA1})")

    def pieces(self, split: str) -> Iterator[bytes]:
        """Lines, the first and last of a split cut where it begins and ends."""
        number = self.splits.index(split)
        start, stop = self._bounds[number], self._bounds[number + 1]
        offset = 0
        for piece in self._pieces():
            if offset < stop and start < offset + len(piece):
                yield piece[max(start - offset, 0) : stop - offset]
            offset += len(piece)

    @cached_property
    def _file(self) -> File:
        if self.place.is_file():
            return File(self.place, "enwik8" if self.place.suffix == ".zip" else "")
        for file in (File(self.place / "enwik8"), File(self.place / "enwik8.zip", "enwik8")):
            if file.path.is_file():
                return file
        raise missing("enwik8", self.place, ("enwik8", "enwik8.zip"), URL)

    def _pieces(self) -> Iterator[bytes]:
        return pieces(self._file, self.recipe.reads_text)

    @cached_property
    def _bounds(self) -> list[int]:
        """Where splits begin and end, in bytes."""
        if not self.recipe.reads_text:
            return [self.SIZE * share // 100 for share in (0, 90, 95, 100)]
        length = sum(len(piece.decode()) for piece in self._pieces())
        wanted, found = [int(0.9 * length), int(0.95 * length)], [0]
        characters = offset = 0
        for piece in self._pieces():
            text = piece.decode()
            while len(found) <= len(wanted) and wanted[len(found) - 1] < characters + len(text):
                found.append(offset + len(text[: wanted[len(found) - 1] - characters].encode()))
            characters, offset = characters + len(text), offset + len(piece)
        return [*found, offset]
