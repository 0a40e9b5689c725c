"""IMDB: 50,000 film reviews, half of them positive.

A. Maas, R. Daly, P. Pham, D. Huang, A. Ng and C. Potts, Learning Word Vectors for Sentiment Analysis, ACL 2011.
"""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jattn.data.cache import Writer
from jattn.data.dataset import Batch, Dataset
from jattn.data.options import check_range
from jattn.data.places import data_folder, get_command, hub_folder, missing
from jattn.data.text.files import Damaged, File, batches, by_split, find, lines, opened, parquet_rows
from jattn.data.text.recipes import WordsRecipe
from jattn.data.text.tokenised import Tokenised, smallest_type
from jattn.data.text.tokenizers import Words
from jattn.errors import UserError, unknown
from jattn.task import Task

REPOSITORY = "stanfordnlp/imdb"
URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
PADDING, START = 0, 1
_SENTIMENTS = {"negative": 0, "positive": 1}


class Review(NamedTuple):
    """A review: UTF-8, 0 (negative) or 1 (positive), and the part it was published in: train, test or "" (not said)."""

    text: bytes
    label: int
    part: str


@dataclass(frozen=True)
class IMDB(Tokenised, Dataset):
    """Tokens int32 (B, max_length): padding 0, a start token 1, then the review; and its sentiment, 0 or 1.

    Reads the table `review,sentiment` (CSV), the folder `aclImdb`, or the hub's parquet files. In which split a
    review is depends on a hash of its text, not on where it stands, so all three give the same splits.

    As published (NMesaC/pay-better-attention-pytorch-keras), words that are not in the vocabulary are padding, and the
    vocabulary is that of all reviews, those for testing included.
    """

    sources: ClassVar[tuple[str, ...]] = ("folder", "huggingface")
    not_cached: ClassVar[tuple[str, ...]] = ("max_length", "keep")
    default_tokenizer: ClassVar[str] = "words(vocab_size=19998)"  # with padding and start 20,000
    published: ClassVar[str] = "imdb"

    source: str = "folder"
    path: str = ""
    tokenizer: str = ""  # see jattn.data.text.recipes; "" = default_tokenizer
    division: str = "random"  # random | standard: 25,000 for testing as published, valid_size of the others held out
    train_size: int = 40_000  # random: reviews; those that are left after training and validation are for testing
    valid_size: int = 4_000  # reviews; standard with 0: validation is on the reviews for testing
    split_seed: int = 0  # another seed, another division
    max_length: int = 32  # tokens, the start included
    keep: str = "first"  # of a longer review; first | last, which is padded in front, as Keras does
    as_published: bool = False

    def __post_init__(self):
        for option, least in (("train_size", 1), ("valid_size", 0), ("split_seed", 0), ("max_length", 2)):
            check_range(self, option, least)
        for option, allowed in (("division", ("random", "standard")), ("keep", ("first", "last"))):
            if getattr(self, option) not in allowed:
                raise unknown(f"{option} of imdb", getattr(self, option), allowed)
        if self.as_published and not isinstance(self.recipe, WordsRecipe):
            raise UserError(f"as_published=True of imdb needs data.tokenizer=words(...), not {self.tokenizer!r}")
        self.entry  # noqa: B018 - mistakes come to light now

    @property
    def task(self) -> Task:
        """Two classes of texts."""
        special = 1 if self.as_published else 2  # the unknown word is padding
        return Task(kind="text", num_classes=2, vocab_size=self.fitted.vocab_size + special, length=self.max_length)

    def size(self, split: str) -> int:
        """Number of reviews of a split."""
        self.check_split(split)
        return len(self.entry.arrays[f"{split}_labels"])

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Reviews and sentiments; every weight is 1."""
        tokens, ends = self.entry.arrays[f"{split}_tokens"], self.entry.arrays[f"{split}_ends"]
        inputs = np.full((len(index), self.max_length), PADDING, np.int32)
        for row, stop, before in zip(inputs, ends[index + 1], ends[index], strict=True):
            review = tokens[before:stop]
            if self.keep == "first":
                review = review[: self.max_length]
                row[: len(review)] = review
            else:
                review = review[-self.max_length :]
                row[self.max_length - len(review) :] = review
        return {
            "inputs": inputs,
            "targets": self.entry.arrays[f"{split}_labels"][index].astype(np.int32),
            "weight": np.ones(len(index), np.float32),
        }

    def description(self) -> str:
        """One line for the log."""
        sizes = ", ".join(f"{self.size(split):,} {split}" for split in self.splits)
        return f"IMDB reviews ({sizes}), {self.keep} {self.max_length} of {self.task.vocab_size:,} tokens"

    @cached_property
    def place(self) -> Path:
        """The folder or the CSV file."""
        if self.source == "huggingface":
            return hub_folder("imdb", self.path or REPOSITORY, "plain_text/*")
        return data_folder("imdb", self.path)

    def files(self) -> list[File]:
        """The tables, or the folders of reviews, whose times tell whether a review came or went."""
        if self._acl is None:
            return self._tables
        return [File(self._acl / part / name) for part in ("train", "test") for name in ("neg", "pos")]

    def make(self, writer: Writer) -> dict[str, Any]:
        """Divides the reviews, learns the vocabulary and writes the tokens of each split."""
        parts = self._divided(list(self._reviews()))
        learned_from = self.splits if self.as_published else ("train",)
        stream = lambda: batches(review.text + b"\n" for split in learned_from for review in parts[split])  # noqa: E731
        tokenizer = self.recipe.fit(stream, stream)
        dtype = smallest_type(tokenizer.vocab_size + 2)
        for split, reviews in parts.items():
            ends = [0]

            def encoded(reviews=reviews, ends=ends):
                for review in reviews:
                    ids = tokenizer.encode_batch([review.text])
                    shifted = np.where(ids == Words.UNKNOWN, PADDING, ids + 1) if self.as_published else ids + 2
                    ends.append(ends[-1] + 1 + len(ids))
                    yield np.concatenate([[START], shifted])

            writer.write(f"{split}_tokens", encoded(), dtype)
            writer.write(f"{split}_ends", [np.array(ends)], np.int64)
            writer.write(f"{split}_labels", [np.array([review.label for review in reviews])], np.uint8)
        return {"tokenizer": tokenizer.to_json()}

    def _divided(self, reviews: list[Review]) -> dict[str, list[Review]]:
        """Reviews by split, in the order of a hash of their texts."""
        seed = self.split_seed.to_bytes(8, "little")
        reviews.sort(key=lambda review: hashlib.blake2b(review.text, key=seed).digest())
        if self.division == "random":
            held_out = self.train_size + self.valid_size
            train, valid, test = reviews[: self.train_size], reviews[self.train_size : held_out], reviews[held_out:]
        else:
            if any(not review.part for review in reviews):
                raise UserError(
                    f"{self.place} does not say which reviews are for testing, which division='standard' needs: "
                    f"give the folder aclImdb ({URL}) as data.path, or choose division='random'"
                )
            test = [review for review in reviews if review.part == "test"]
            others = [review for review in reviews if review.part == "train"]
            train, valid = others[self.valid_size :], others[: self.valid_size] or test
        parts = {"train": train, "valid": valid, "test": test}
        for split, part in parts.items():
            if not part:
                raise UserError(
                    f"no review is left for split {split!r}: {self.place} has {len(reviews):,}, with "
                    f"train_size={self.train_size} and valid_size={self.valid_size}; choose smaller ones"
                )
        return parts

    @cached_property
    def _acl(self) -> Path | None:
        for folder in (self.place, self.place / "aclImdb"):
            if (folder / "train" / "pos").is_dir():
                return folder
        return None

    @cached_property
    def _tables(self) -> list[File]:
        if self.place.is_file():
            return [File(self.place)]
        for pattern in ("*.csv", "*.parquet", "plain_text/*.parquet"):
            if files := find(self.place, pattern):
                return files
        raise missing("imdb", self.place, ("train/pos", "aclImdb/train/pos", "*.csv", "*.parquet"), URL)

    def _reviews(self) -> Iterator[Review]:
        """All reviews with a sentiment."""
        if self._acl is not None:
            for part in ("train", "test"):
                for name, label in (("neg", 0), ("pos", 1)):
                    files = find(self._acl / part / name, "*.txt")
                    if not files:
                        raise UserError(
                            f"{self._acl / part / name} has no reviews (*.txt): remove {self._acl}, and get them with "
                            f"{get_command('imdb', self._acl.parent)}"
                        )
                    for file in files:
                        with opened(file) as stream:
                            yield Review(b"".join(lines(stream, str(file))), label, part)
            return
        for file in self._tables:
            yield from _parquet_reviews(file) if file.path.suffix == ".parquet" else _csv_reviews(file)


def _parquet_reviews(file: File) -> Iterator[Review]:
    """Rows `text,label` of the hub's files; label -1 means that there is none."""
    part = next(iter(by_split(file.path.parent, [file])), "")
    for row in parquet_rows(file.path, ["text", "label"]):
        if row["label"] in (0, 1):
            yield Review(row["text"].encode(), row["label"], part)


def _csv_reviews(file: File) -> Iterator[Review]:
    """Rows `review,sentiment`."""
    with opened(file) as stream:
        rows = csv.reader((piece.decode() for piece in lines(stream, str(file))), strict=True)
        try:
            if next(rows, []) != ["review", "sentiment"]:
                raise UserError(f"{file} does not begin with review,sentiment: give the table that does")
            for row in rows:
                if len(row) != 2 or row[1] not in _SENTIMENTS:
                    raise Damaged(
                        f"line {rows.line_num} of {file} is no review with its sentiment, positive or negative"
                    )
                yield Review(row[0].encode(), _SENTIMENTS[row[1]], "")
        except csv.Error as error:
            raise Damaged(f"line {rows.line_num} of {file} is no table ({error})") from None
