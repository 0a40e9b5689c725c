"""How the tokenizer of a corpus comes about: what `data.tokenizer` may be.

`parse("words(vocab_size=5000)").fit(...)` gives a tokenizer. Nothing stands in for anything else: what is neither in
TOKENIZERS nor a file nor a download of the Hugging Face hub is an error.
"""

import abc
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jattn.data.options import check_options, check_range
from jattn.data.text.stored import load
from jattn.data.text.subwords import train_bpe
from jattn.data.text.tokenizers import Bytes, Characters, Tokenizer, Words, codes, split_words
from jattn.errors import UserError, unknown
from jattn.literals import parse_calls

Stream = Callable[[], Iterator[list[bytes]]]
"""Gives all of a text, each time it is called: batches of UTF-8 pieces."""


class Recipe(abc.ABC):
    """How a tokenizer comes about; its fields are its options.

    Attributes:
      reads_text: whether it needs UTF-8; otherwise any bytes will do.
      learned: whether a run must keep the tokenizer to be of use without the text.
    """

    reads_text: ClassVar[bool] = True
    learned: ClassVar[bool] = True

    @abc.abstractmethod
    def fit(self, train: Stream, everything: Stream) -> Tokenizer:
        """The tokenizer for a text, of which `train` is the training part."""


@dataclass(frozen=True)
class BytesRecipe(Recipe):
    """Tokens are bytes."""

    reads_text = False
    learned = False

    def fit(self, train: Stream, everything: Stream) -> Tokenizer:
        """Nothing is learned."""
        return Bytes()


@dataclass(frozen=True)
class CharactersRecipe(Recipe):
    """Tokens are the characters of the whole text, so that none is unknown in any split."""

    def fit(self, train: Stream, everything: Stream) -> Tokenizer:
        """Sorted characters."""
        found = np.zeros(0, np.uint32)
        for batch in everything():
            found = np.union1d(found, codes(b"".join(batch).decode()))
        return Characters("".join(map(chr, found)))


@dataclass(frozen=True)
class WordsRecipe(Recipe):
    """Tokens are the most frequent words of the training part."""

    vocab_size: int = 20_000  # tokens, the unknown word included
    clean: bool = True  # lower case, no <br />, only a-z, 0-9 and white space

    def __post_init__(self):
        check_range(self, "vocab_size", 2)

    def fit(self, train: Stream, everything: Stream) -> Tokenizer:
        """Counted words; of equally frequent ones that which came first."""
        counts: Counter[str] = Counter()
        for batch in train():
            counts.update(split_words(batch, self.clean))
        return Words([word for word, _ in counts.most_common(self.vocab_size - 1)], self.clean)


@dataclass(frozen=True)
class BPERecipe(Recipe):
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; on bytes as GPT-2) of the training part."""

    vocab_size: int = 8_192  # tokens; fewer if the text has no more pairs that occur twice

    def __post_init__(self):
        check_range(self, "vocab_size", 257)

    def fit(self, train: Stream, everything: Stream) -> Tokenizer:
        """Trained by Hugging Face's library."""
        return train_bpe((piece.decode() for batch in train() for piece in batch), self.vocab_size)


@dataclass(frozen=True)
class ReadyRecipe(Recipe):
    """A tokenizer that was made elsewhere."""

    tokenizer: Tokenizer

    def fit(self, train: Stream, everything: Stream) -> Tokenizer:
        """As it is."""
        return self.tokenizer


TOKENIZERS: dict[str, type[Recipe]] = {
    "bytes": BytesRecipe,
    "characters": CharactersRecipe,
    "words": WordsRecipe,
    "bpe": BPERecipe,
}


def parse(text: str) -> Recipe:
    """The recipe of a name in TOKENIZERS with options, of a file or folder, or of a name of the Hugging Face hub.

    Raises:
      UserError: there is no such option, file or download.

    >>> parse("words(vocab_size=100)")
    WordsRecipe(vocab_size=100, clean=True)
    """
    called = re.fullmatch(r"\s*([A-Za-z]\w*)\s*(\(.*\))?\s*", text, re.DOTALL)
    if called is None or (called[1] not in TOKENIZERS and called[2] is None):
        return ReadyRecipe(load(text, TOKENIZERS))
    calls = parse_calls(text)
    if len(calls) != 1:
        raise UserError(f"data.tokenizer={text!r} names {len(calls)} tokenizers: name one")
    ((name, options),) = calls
    if name not in TOKENIZERS:
        raise unknown("tokenizer", name, TOKENIZERS)
    check_options(f"tokenizer {name}", TOKENIZERS[name], options)
    return TOKENIZERS[name](**options)
