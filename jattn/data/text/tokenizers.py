"""From text to tokens and back: what a tokenizer is, and those that need no library."""

import abc
import hashlib
import json
import re
from collections.abc import Iterable, Sequence

import numpy as np

from jattn.errors import UserError

_BREAK = re.compile(r"<br\s*/?>")
_OTHER = re.compile(r"[^a-z0-9\s]")


class Tokenizer(abc.ABC):
    """Text to tokens 0 .. vocab_size - 1 and back."""

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Number of different tokens."""

    @abc.abstractmethod
    def encode_batch(self, pieces: Sequence[bytes]) -> np.ndarray:
        """The tokens of pieces of a text, one behind the other: a 1-d array of integers."""

    @abc.abstractmethod
    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens, or what comes nearest to it."""

    @abc.abstractmethod
    def to_json(self) -> str:
        """What `from_json` makes the same tokenizer of."""

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text. Raises UserError if it has characters that have no token."""
        return self.encode_batch([text.encode()])

    def token_id(self, token: str) -> int | None:
        """The special token that is spelled so, None if there is none."""
        return None

    def digest(self) -> str:
        """Twelve hexadecimal digits that name a tokenizer."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


class Bytes(Tokenizer):
    """The 256 values of a byte."""

    vocab_size = 256

    def encode_batch(self, pieces: Sequence[bytes]) -> np.ndarray:
        """Bytes, uint8."""
        return np.frombuffer(b"".join(pieces), np.uint8)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text; bytes that are no UTF-8 become U+FFFD."""
        return bytes(np.asarray(tokens, np.uint8)).decode(errors="replace")

    def to_json(self) -> str:
        """Its name."""
        return json.dumps({"jattn": "bytes"})


class Characters(Tokenizer):
    """A table of characters."""

    def __init__(self, table: str):
        self._table = table
        points = codes(table)
        self._ids = np.full(int(points.max(initial=0)) + 1, -1, np.int32)
        self._ids[points] = np.arange(len(points))

    @property
    def vocab_size(self) -> int:
        """Characters of the table."""
        return len(self._table)

    def encode_batch(self, pieces: Sequence[bytes]) -> np.ndarray:
        """Places in the table, int32."""
        points = codes(b"".join(pieces).decode())
        ids = np.where(points < len(self._ids), self._ids.take(points, mode="clip"), -1)
        if (ids < 0).any():
            raise UserError(
                f"the character {chr(points[np.argmin(ids)])!r} is not among the {self.vocab_size} of the tokenizer's "
                "table: leave it out, or use another tokenizer"
            )
        return ids

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Exactly the text that was encoded."""
        return "".join(self._table[token] for token in tokens)

    def to_json(self) -> str:
        """The table."""
        return json.dumps({"jattn": "characters", "table": self._table})


class Words(Tokenizer):
    """Words between white space, the most frequent ones first; token 0 is any other word.

    `clean` lower-cases, removes <br /> and every sign but a-z, 0-9 and white space, as the source of the IMDB
    experiment does (NMesaC/pay-better-attention-pytorch-keras, IMDB_loader.py).
    """

    UNKNOWN = 0

    def __init__(self, words: Sequence[str], clean: bool):
        self._words, self._clean = list(words), clean
        self._ids = {word: token for token, word in enumerate(words, 1)}

    @property
    def vocab_size(self) -> int:
        """Known words and the unknown one."""
        return 1 + len(self._words)

    def encode_batch(self, pieces: Sequence[bytes]) -> np.ndarray:
        """Words, int64."""
        ids = self._ids
        return np.array([ids.get(word, self.UNKNOWN) for word in split_words(pieces, self._clean)], np.int64)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Words with spaces between them."""
        return " ".join(self._words[token - 1] if token else "<unk>" for token in tokens)

    def to_json(self) -> str:
        """The words in their order."""
        return json.dumps({"jattn": "words", "words": self._words, "clean": self._clean})


def split_words(pieces: Iterable[bytes], clean: bool) -> list[str]:
    """The words of pieces of a text, cleaned or not."""
    text = b"".join(pieces).decode()
    if clean:
        text = _OTHER.sub("", _BREAK.sub(" ", text.lower()))
    return text.split()


def codes(text: str) -> np.ndarray:
    """The code points of a text, uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def count_characters(text: bytes | np.ndarray) -> int:
    """The characters that begin in a piece of UTF-8: bytes but for those that continue one.

    >>> count_characters("Über 東京".encode())
    7
    """
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) & 0xC0 != 0x80))
