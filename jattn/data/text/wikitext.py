"""WikiText-2 and WikiText-103: good and featured articles of the English Wikipedia.

S. Merity, C. Xiong, J. Bradbury and R. Socher, Pointer Sentinel Mixture Models, ICLR 2017 (arXiv:1609.07843). Two and
103 million words; the raw version has the text as it was, the other one words apart and rare ones as <unk>.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from jattn.data.dataset import Batch
from jattn.data.options import check_range
from jattn.data.places import data_folder, get_command, hub_folder, missing
from jattn.data.text import rows
from jattn.data.text.corpora import TextCorpus
from jattn.data.text.files import Damaged, File, by_split, find, lines, opened, pieces, row_pieces
from jattn.data.text.tokenizers import Tokenizer
from jattn.errors import UserError
from jattn.task import Task

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
    row_length: int | None = None  # tokens at which lines are cut off, and rows of whole lines end; None = one text

    def __post_init__(self):
        if self.train_lines is not None:
            check_range(self, "train_lines", 1)
        if self.row_length not in (None, self.sequence_length):
            raise UserError(
                f"row_length={self.row_length} of {type(self).__name__} must be sequence_length={self.sequence_length}"
            )
        super().__post_init__()

    @property
    def is_running_text(self) -> bool:
        """Not in rows, whose lines are cut off."""
        return self.row_length is None and super().is_running_text

    @property
    def task(self) -> Task:
        """Next-token prediction; rows are not the text, and have no tokens per byte."""
        task = super().task
        return task if self.row_length is None else replace(task, tokens_per_byte=None, tokens_per_character=None)

    def task_of(self, split: str) -> Task:
        """The task, of a text with the tokens per byte and character of this split."""
        return super().task_of(split) if self.row_length is None else self.task

    def size(self, split: str) -> int:
        """Number of windows, or of rows."""
        return super().size(split) if self.row_length is None else len(self.tokens(split)) // (self.row_length + 1)

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Windows, or rows, which are the same in every epoch."""
        if self.row_length is None:
            return super().examples(split, index, epoch)
        return rows.examples(self.tokens(split), index, self.row_length, self.ahead)

    def encoded(self, pieces: Iterable[bytes], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
        """The tokens of a text, or of its rows, for which lines of white space are left out."""
        if self.row_length is None:
            yield from super().encoded(pieces, tokenizer)
            return
        end = tokenizer.token_id(rows.END)
        if end is None:
            raise UserError(
                f"row_length={self.row_length} needs a tokenizer with {rows.END}, which {self.tokenizer or 'bpe'!r} "
                "has not: set data.tokenizer to GPT-2's, 'openai-community/gpt2'"
            )
        lines = (tokenizer.encode_batch([self.read_by(piece, tokenizer)]) for piece in pieces if piece.strip())
        yield from rows.packed(lines, self.row_length, end)

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
