"""Tokenizers of the Hugging Face library: trained here, or made from their vocabularies.

They read a text line by line, so that how it is cut into batches changes nothing; and they add no token of their own
to a line.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jattn.data.text.tokenizers import Tokenizer
from jattn.errors import UserError


class Subwords(Tokenizer):
    """A tokenizer of the Hugging Face library."""

    def __init__(self, tokenizer):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    @classmethod
    def from_json(cls, text: str) -> "Subwords":
        """From the text of a `tokenizer.json`. Raises UserError if it is none."""
        import tokenizers

        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the library raises Exception itself
            raise UserError(f"this is no tokenizer.json ({error})") from None

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included: one more than the largest."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def encode_batch(self, pieces: Sequence[bytes]) -> np.ndarray:
        """Tokens, int64."""
        found = self._tokenizer.encode_batch_fast([piece.decode() for piece in pieces], add_special_tokens=False)
        return np.concatenate([np.zeros(0, np.int64), *(np.array(line.ids, np.int64) for line in found)])

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text, special tokens included."""
        return self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False)

    def token_id(self, token: str) -> int | None:
        """The token that is spelled so, special or not, None if there is none."""
        return self._tokenizer.token_to_id(token)

    def to_json(self) -> str:
        """The text of a `tokenizer.json`."""
        return self._tokenizer.to_str()


def train_bpe(pieces: Iterator[str], vocab_size: int) -> Subwords:
    """Byte-level BPE with GPT-2's division into words. Every text can be encoded, and decodes to itself."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(pieces, trainer)
    return Subwords(tokenizer)


def word_pieces(path: Path) -> Subwords:
    """BERT's, from its vocabulary; cased if that has pieces with capital letters."""
    from tokenizers.implementations import BertWordPieceTokenizer

    pieces = path.read_text(encoding="utf-8").splitlines()
    for special in ("[UNK]", "[SEP]", "[CLS]"):
        if special not in pieces:
            raise UserError(f"{path} is no vocabulary of word pieces: {special} is missing")
    cased = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    made = BertWordPieceTokenizer(vocabulary, lowercase=not cased, strip_accents=not cased)
    return Subwords.from_json(made.to_str())


def gpt2(vocabulary: Path, merges: Path) -> Subwords:
    """GPT-2's, from its two files."""
    from tokenizers.implementations import ByteLevelBPETokenizer

    try:
        made = ByteLevelBPETokenizer.from_file(str(vocabulary), str(merges))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{vocabulary.name} and {merges.name} do not fit ({error})") from None
    return Subwords.from_json(made.to_str())
