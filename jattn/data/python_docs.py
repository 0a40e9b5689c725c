"""Python's own language reference as a byte-level corpus of 374 KB, carried in the package.

The text is a frozen copy of `pydoc_data.topics` of Python 3.11, with repeated paragraphs left out, so that no
paragraph is in two splits; `scripts/freeze_python_docs.py` made it. Its licence (the PSF's) lies beside it.
"""

import dataclasses
import hashlib
import lzma
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np

from jattn.data.corpus import Corpus
from jattn.data.text.tokenizers import Bytes, count_characters
from jattn.errors import UserError, unknown
from jattn.task import Task

FILE = "embedded/python_docs.txt.xz"
SHA256 = "f784d6fb39bdb407417b39889b74209e5327a12c530ac010595a0cb3719c903b"  # of the text


@dataclass(frozen=True)
class PythonDocs(Corpus):
    """Bytes of the language reference, divided 90/5/5 where a paragraph ends."""

    def tokens(self, split: str) -> np.ndarray:
        """The bytes of a split, uint8."""
        return np.frombuffer(split_text(split), np.uint8)

    @property
    def vocab_size(self) -> int:
        """The values of a byte."""
        return 256

    @property
    def tokens_per_byte(self) -> float:
        """A token is a byte."""
        return 1.0

    @property
    def tokens_per_character(self) -> float:
        """Of all splits together: nearly 1."""
        tokens = [self.tokens(split) for split in self.splits]
        return sum(map(len, tokens)) / sum(map(count_characters, tokens))

    def task_of(self, split: str) -> Task:
        """With the bytes per character of this split."""
        tokens = self.tokens(split)
        return dataclasses.replace(self.task, tokens_per_character=len(tokens) / count_characters(tokens))

    @property
    def fitted(self) -> Bytes:
        """Bytes."""
        return Bytes()

    def description(self) -> str:
        """One line for the log."""
        sizes = ", ".join(f"{len(self.tokens(split)):,} {split}" for split in self.splits)
        return f"Python's language reference, bytes ({sizes}) in windows of {self.sequence_length}"


def split_text(split: str) -> bytes:
    """The raw text of a split (train, valid or test); the three joined are the whole text.

    Each ends with the paragraph nearest to 90 % and 95 % of the bytes, so no paragraph is cut.
    """
    parts = _splits()
    if split not in parts:
        raise unknown("split", split, parts)
    return parts[split]


@lru_cache(maxsize=1)
def _splits() -> dict[str, bytes]:
    text = decompressed(resources.files("jattn.data").joinpath(FILE).read_bytes())
    first, second = (paragraph_end(text, round(share * len(text))) for share in (0.9, 0.95))
    return {"train": text[:first], "valid": text[first:second], "test": text[second:]}


def decompressed(packed: bytes) -> bytes:
    """The text in the frozen file's bytes. Raises UserError if it is not the text that was frozen."""
    try:
        text = lzma.decompress(packed)
    except lzma.LZMAError:
        text = b""
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise UserError(f"the embedded file {FILE} is damaged (its SHA-256 differs): install jattn again")
    return text


def paragraph_end(text: bytes, position: int) -> int:
    """The end of a paragraph, its blank line included, that is nearest to a position of the text."""
    before = text[:position].rfind(b"\n\n")
    after = text.find(b"\n\n", position)
    before = 0 if before < 0 else before + 2
    after = len(text) if after < 0 else after + 2
    return before if position - before <= after - position else after
