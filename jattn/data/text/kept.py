"""What a run itself knows of the text that it was trained on: enough for its model, without a file of the text."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jattn.config import DataConfig
from jattn.data import DATASETS
from jattn.data.corpus import Corpus
from jattn.data.dataset import Batch, Dataset
from jattn.data.text.stored import from_json
from jattn.data.text.tokenizers import Bytes, Tokenizer
from jattn.literals import parse_options
from jattn.task import Task


@dataclass(frozen=True)
class KeptText(Dataset):
    """Stands for a corpus where nobody asks for examples but for their shapes: all its tokens are 0."""

    tokenizer: Tokenizer
    sequence_length: int

    @property
    def fitted(self) -> Tokenizer:
        """The tokenizer."""
        return self.tokenizer

    @property
    def task(self) -> Task:
        """Next-token prediction. How long a token is takes the text to say; a run may choose its best by it."""
        vocab_size = self.tokenizer.vocab_size
        return Task("language", None, vocab_size, self.sequence_length, tokens_per_byte=1.0, tokens_per_character=1.0)

    def size(self, split: str) -> int:
        """As many windows as any schedule wants."""
        return 10**9

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Tokens 0."""
        zeros = np.zeros((len(index), self.sequence_length), np.int32)
        return {"inputs": zeros, "targets": zeros, "weight": zeros.astype(np.float32)}

    def description(self) -> str:
        """One line for the log."""
        return f"no text, {self.tokenizer.vocab_size:,} tokens in windows of {self.sequence_length}"


def kept_text(config: DataConfig, folder: Path) -> KeptText | None:
    """The stand-in for the corpus of the run in a folder; None if its data is no corpus.

    A run keeps its tokenizer as tokenizer.json unless there is nothing to know of it: then tokens are bytes.
    """
    corpus = DATASETS.get(config.name)
    if corpus is None or not issubclass(corpus, Corpus):
        return None
    options = parse_options(config.options)
    path = folder / "tokenizer.json"
    tokenizer = from_json(path.read_text(encoding="utf-8")) if path.exists() else Bytes()
    return KeptText(tokenizer, options.get("sequence_length", corpus.sequence_length))
