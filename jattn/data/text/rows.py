"""Text as rows of whole lines, as the source of natural attention cuts it (jeroaranda/naturalattention, d0fb925)."""

from collections.abc import Iterable, Iterator

import numpy as np

from jattn.data.dataset import Batch

END = "<|endoftext|>"
"""What GPT-2's tokenizer calls the token that fills rows up."""


def packed(lines: Iterable[np.ndarray], length: int, end: int) -> Iterator[np.ndarray]:
    """Rows of `length` + 1 tokens: as many lines as fit, each cut off at `length` and none divided, then `end`.

    >>> [row.tolist() for row in packed([np.array([1, 2]), np.array([3, 4, 5, 6]), np.array([7])], 3, end=0)]
    [[1, 2, 0, 0], [3, 4, 5, 0], [7, 0, 0, 0]]
    """
    row: list[int] = []

    def filled() -> np.ndarray:
        return np.array(row + [end] * (length + 1 - len(row)))

    for line in lines:
        tokens = line[:length].tolist()
        if row and len(row) + len(tokens) > length:
            yield filled()
            row = []
        row = row + tokens
        if len(row) == length:
            yield filled()
            row = []
    if row:
        yield filled()


def examples(tokens: np.ndarray, index: np.ndarray, length: int, ahead: int) -> Batch:
    """Rows `index` (B,) without their last token, and what is `ahead` of each place; weight 0 where there is none."""
    rows = tokens.reshape(-1, length + 1)[index].astype(np.int32)
    place = np.arange(length) + ahead
    return {
        "inputs": rows[:, :-1],
        "targets": rows[:, np.minimum(place, length)],
        "weight": np.broadcast_to(place <= length, (len(rows), length)).astype(np.float32),
    }
