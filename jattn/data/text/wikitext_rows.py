"""WikiText-2 in rows, as the source of natural attention cuts it (jeroaranda/naturalattention, commit d0fb925)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jattn.data.dataset import Batch
from jattn.data.text.tokenizers import Tokenizer
from jattn.data.text.wikitext import WikiText2
from jattn.errors import UserError
from jattn.task import Task

END = "<|endoftext|>"
"""What GPT-2's tokenizer calls the token that fills rows up."""


@dataclass(frozen=True)
class WikiText2Rows(WikiText2):
    """Rows of `sequence_length` tokens and one more: as many lines as fit, each cut off at that length, none divided.

    The rest of a row is the end-of-text token, which is predicted like any other. Rows are the same in every epoch;
    what is cut off of lines is never read, so that nothing measured here is that of the text.
    """

    not_cached: ClassVar[tuple[str, ...]] = ("ahead",)
    is_running_text: ClassVar[bool] = False

    @property
    def task(self) -> Task:
        """Without tokens per byte: rows are not the text."""
        return Task(kind="language", vocab_size=self.vocab_size, length=self.sequence_length)

    def task_of(self, split: str) -> Task:
        """As of all splits."""
        return self.task

    def size(self, split: str) -> int:
        """Number of rows."""
        return len(self.tokens(split)) // (self.sequence_length + 1)

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Rows without their last token, and what is `ahead` of each place; weight 0 where the row ends before."""
        length = self.sequence_length
        rows = self.tokens(split).reshape(-1, length + 1)[index].astype(np.int32)
        there = np.arange(length) + self.ahead
        weight = np.broadcast_to(there <= length, (len(rows), length)).astype(np.float32)
        return {
            "inputs": rows[:, :-1],
            "targets": rows[:, np.minimum(there, length)],
            "weight": weight,
        }

    def encoded(self, pieces: Iterable[bytes], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
        """Rows; lines of white space are left out."""
        end = tokenizer.token_id(END)
        if end is None:
            raise UserError(
                f"wikitext2_rows needs a tokenizer with {END}, which {self.tokenizer or self.default_tokenizer!r} has "
                "not: set data.tokenizer to GPT-2's, 'openai-community/gpt2'"
            )
        length = self.sequence_length
        row: list[int] = []

        def filled() -> np.ndarray:
            return np.array(row + [end] * (length + 1 - len(row)))

        for piece in pieces:
            if not piece.strip():
                continue
            line = tokenizer.encode_batch([piece])[:length].tolist()
            if row and len(row) + len(line) > length:
                yield filled()
                row = []
            row = row + line
            if len(row) == length:
                yield filled()
                row = []
        if row:
            yield filled()
