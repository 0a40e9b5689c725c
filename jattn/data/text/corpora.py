"""Corpora in files: tokenised once, kept on disk, memory-mapped."""

import abc
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jattn.data.cache import Writer
from jattn.data.corpus import Corpus
from jattn.data.text.files import batches
from jattn.data.text.tokenised import Tokenised, smallest_type
from jattn.data.text.tokenizers import Tokenizer, count_characters
from jattn.errors import UserError
from jattn.task import Task


@dataclass(frozen=True)
class TextCorpus(Tokenised, Corpus):
    """Text in files, divided into splits by a subclass, as tokens."""

    sources: ClassVar[tuple[str, ...]] = ("folder", "huggingface")
    not_cached: ClassVar[tuple[str, ...]] = ("sequence_length", "ahead")
    default_tokenizer: ClassVar[str] = "bytes"

    source: str = "folder"
    path: str = ""
    tokenizer: str = ""  # see jattn.data.text.recipes; "" = default_tokenizer

    def __post_init__(self):
        for split in self.splits:
            if len(self.tokens(split)) == 0:
                raise UserError(
                    f"split {split!r} of {self.label} has no text ({self.place}): give a longer one, or a file with "
                    "text for each split"
                )
        super().__post_init__()

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What the corpus is called in the log and in messages."""

    @abc.abstractmethod
    def pieces(self, split: str) -> Iterator[bytes]:
        """The text of a split."""

    def verify(self) -> None:
        """Raises UserError if files are not what they should be; called before they are read for the first time."""

    def read_by(self, piece: bytes, tokenizer: Tokenizer) -> bytes:
        """What the tokenizer gets to read for a piece of the text."""
        return piece

    def encoded(self, pieces: Iterable[bytes], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
        """The tokens of a text, in arrays one behind the other."""
        for batch in batches(pieces):
            yield tokenizer.encode_batch([self.read_by(piece, tokenizer) for piece in batch])

    def tokens(self, split: str) -> np.ndarray:
        """All tokens of a split, of the smallest unsigned type that holds them."""
        self.check_split(split)
        return self.entry.arrays[split]

    @property
    def vocab_size(self) -> int:
        """Tokens that the tokenizer knows."""
        return self.fitted.vocab_size

    @property
    def tokens_per_byte(self) -> float:
        """Of all splits together."""
        return sum(len(self.tokens(split)) for split in self.splits) / sum(self.entry.facts["bytes"].values())

    @property
    def tokens_per_character(self) -> float:
        """Of all splits together."""
        return sum(len(self.tokens(split)) for split in self.splits) / sum(self.entry.facts["characters"].values())

    def task_of(self, split: str) -> Task:
        """With the tokens per byte and character of this split."""
        count, facts = len(self.tokens(split)), self.entry.facts
        return dataclasses.replace(
            self.task,
            tokens_per_byte=count / facts["bytes"][split],
            tokens_per_character=count / facts["characters"][split],
        )

    def description(self) -> str:
        """One line for the log."""
        sizes = ", ".join(f"{len(self.tokens(split)):,} {split}" for split in self.splits)
        name = self.tokenizer or self.default_tokenizer
        return f"{self.label}, {name} ({sizes}; {self.vocab_size:,} tokens) in windows of {self.sequence_length}"

    def make(self, writer: Writer) -> dict[str, Any]:
        """Learns the tokenizer and writes the tokens of each split."""
        self.verify()
        everything = lambda: itertools.chain.from_iterable(batches(self.pieces(split)) for split in self.splits)  # noqa: E731
        tokenizer = self.recipe.fit(lambda: batches(self.pieces("train")), everything)
        bytes_read, characters = {}, {}
        for split in self.splits:
            count = _Count(self.pieces(split))
            writer.write(split, self.encoded(count, tokenizer), smallest_type(tokenizer.vocab_size))
            bytes_read[split], characters[split] = count.bytes, count.characters
        return {"tokenizer": tokenizer.to_json(), "bytes": bytes_read, "characters": characters}


class _Count:
    """Passes pieces on and counts their bytes and characters."""

    def __init__(self, pieces: Iterable[bytes]):
        self._pieces, self.bytes, self.characters = pieces, 0, 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.bytes += len(piece)
            self.characters += count_characters(piece)
            yield piece
