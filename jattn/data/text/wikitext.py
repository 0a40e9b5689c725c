"""WikiText-2 and WikiText-103: good and featured articles of the English Wikipedia.

S. Merity, C. Xiong, J. Bradbury and R. Socher, Pointer Sentinel Mixture Models, ICLR 2017 (arXiv:1609.07843). Two and
103 million words; the raw version has the text as it was, the other one words apart and rare ones as <unk>.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from jattn.data.options import check_range
from jattn.data.places import data_folder, get_command, hub_folder, missing
from jattn.data.text.corpora import TextCorpus
from jattn.data.text.files import Damaged, File, by_split, find, lines, opened, pieces, row_pieces
from jattn.data.text.tokenizers import Tokenizer
from jattn.errors import UserError

REPOSITORY = "Salesforce/wikitext"
URL = f"https://huggingface.co/datasets/{REPOSITORY}"
_EMPTY = b" \n"  # a line without words, which tables have as an empty row


@dataclass(frozen=True)
class WikiText(TextCorpus):
    """`wiki.train.raw` and its like, the zip they came in, or the hub's parquet files.

    Also `wiki.train.tokens` as written by pandas' `to_csv`, which is how the source of neural attention asks for them.
    """

    number: ClassVar[int]
    default_tokenizer: ClassVar[str] = "bpe"

    raw: bool = True  # False: the version with words apart and <unk>
    bert_marks: bool = False  # newlines read as [SEP], <unk> as [UNK], no space at the ends of a line
    as_published: bool = False  # read what to_csv wrote as text, with its quotes, as the source of neural attention
    train_lines: int | None = None  # of the training split, empty ones included, from its first; None = all

    def __post_init__(self):
        if self.train_lines is not None:
            check_range(self, "train_lines", 1)
        super().__post_init__()

    @property
    def label(self) -> str:
        """Its name."""
        return f"WikiText-{self.number}{' raw' if self.raw else ''}"

    @property
    def published(self) -> str:
        """The name of the data set."""
        return f"wikitext{self.number}"

    @cached_property
    def place(self) -> Path:
        """The folder, or the archive."""
        name = self.published
        if self.source == "huggingface":
            return hub_folder(name, self.path or REPOSITORY, f"{self._version}-v1/*")
        return data_folder(name, self.path)

    def files(self) -> list[File]:
        """The files of all splits."""
        return [file for split in self.splits for file in self._parts[split]]

    def pieces(self, split: str) -> Iterator[bytes]:
        """Lines."""
        left = self.train_lines if split == "train" else None
        for piece in self._pieces(split):
            if left is not None:
                if left == 0:
                    return
                left -= piece.endswith(b"\n")
            yield piece

    def _pieces(self, split: str) -> Iterator[bytes]:
        for file in self._parts[split]:
            if self._is_csv(file):
                yield from _csv_pieces(file)
            else:
                yield from pieces(file, self.recipe.reads_text, empty=_EMPTY)

    def read_by(self, piece: bytes, tokenizer: Tokenizer) -> bytes:
        """Lines with BERT's marks, if asked for."""
        if not self.bert_marks:
            return piece
        if tokenizer.token_id("[SEP]") is None or tokenizer.token_id("[UNK]") is None:
            raise UserError(
                f"bert_marks=True needs a tokenizer with [SEP] and [UNK], which {self.tokenizer or 'bpe'!r} has not: "
                "set data.tokenizer to BERT's, such as 'google-bert/bert-base-cased'"
            )
        return piece.strip(b" ").replace(b"\n", b"[SEP]").replace(b"<unk>", b"[UNK]")

    @property
    def _version(self) -> str:
        return f"wikitext-{self.number}{'-raw' if self.raw else ''}"

    @cached_property
    def _parts(self) -> dict[str, list[File]]:
        names = {split: f"wiki.{split}.{'raw' if self.raw else 'tokens'}" for split in self.splits}
        archive = self.place if self.place.is_file() else self.place / f"{self._version}-v1.zip"
        for folder in (self.place, self.place / self._version, self.place / f"{self._version}-v1"):
            there = [name for name in names.values() if (folder / name).is_file()]
            if len(there) == len(names):
                return {split: [File(folder / name)] for split, name in names.items()}
            if there:
                absent = [name for name in names.values() if name not in there]
                raise UserError(
                    f"{folder} has {', '.join(there)} but not {', '.join(absent)}: add what is missing, or "
                    f"remove these and get all with {get_command(self.published, self.place)} (from {URL})"
                )
            tables = by_split(folder, find(folder, "*.parquet"))
            if len(tables) == len(names):
                return tables
        if archive.is_file():
            return {split: [File(archive, f"{self._version}/{name}")] for split, name in names.items()}
        looked_for = [*names.values(), "train-*.parquet", archive.name]
        raise missing(self.published, self.place, looked_for, URL)

    def _is_csv(self, file: File) -> bool:
        """Whether to_csv wrote it: it quotes every row, and no article begins with a quote."""
        if self.as_published or file.path.suffix == ".parquet":
            return False
        with opened(file) as stream:
            return stream.read(1) == b'"'


@dataclass(frozen=True)
class WikiText2(WikiText):
    """Two million words to train on."""

    number = 2


@dataclass(frozen=True)
class WikiText103(WikiText):
    """103 million words to train on."""

    number = 103


def _csv_pieces(file: File) -> Iterator[bytes]:
    """The pieces of a table of one column without a head."""
    with opened(file) as stream:
        try:
            for row in csv.reader((piece.decode() for piece in lines(stream, str(file))), strict=True):
                yield from row_pieces(row[0] if row else "", _EMPTY)
        except csv.Error as error:
            raise Damaged(f"{file} begins like a table of to_csv but is none ({error})") from None
