"""ListOps: the value of a nested list of operations on digits, such as [MAX 2 9 [MIN 4 7 ] 0 ], which is 9.

N. Nangia and S. R. Bowman, ListOps: A Diagnostic Dataset for Latent Tree Learning, NAACL SRW 2018
(arXiv:1804.06028), with the grammar of Y. Tay et al., Long Range Arena, ICLR 2021 (arXiv:2011.04006):

    list -> [MIN args ] | [MAX args ] | [MED args ] | [SM args ]     MED: median, rounded down; SM: sum modulo 10
    args -> 2 to max_args of (digit | list)                          each a list with operator_probability

A list has depth 1, the arguments of one at depth d have depth d + 1, and at max_depth all are digits. The Long
Range Arena keeps lengths of 501 to 1,999 tokens from max_depth=10, max_args=10. Its whole expression is a
single digit with the same probability as an argument; these never have the length it asks for, and are not
drawn here.
"""

from dataclasses import dataclass

import numpy as np

from jattn.data.dataset import Batch
from jattn.data.generated import Generated
from jattn.data.options import check_range
from jattn.data.streams import integers, uniform
from jattn.errors import UserError
from jattn.task import Task

TOKENS = ("<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
"""What each token stands for; token 0 is padding."""

_DIGIT, _OPERATOR, _CLOSE = 1, 11, 15
_CHUNK = 8192  # expressions drawn at a time


@dataclass(frozen=True)
class ListOps(Generated):
    """Expressions, int (B, max_length) padded with token 0, and their value, one of ten classes."""

    max_depth: int = 4  # 1 + the number of lists that may lie within each other
    max_args: int = 5  # arguments of a list
    operator_probability: float | int = 0.25  # that an argument is a list
    min_length: int = 8  # tokens; shorter expressions are drawn again
    max_length: int = 64  # tokens; longer expressions are drawn again

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "max_depth", 2)
        check_range(self, "max_args", 2)
        check_range(self, "operator_probability", 0, 1)
        check_range(self, "min_length", 1)
        if self.max_length < max(4, self.min_length):
            raise UserError(
                f"max_length={self.max_length} of ListOps must be at least 4, the length of [MIN 1 2 ], "
                f"and at least min_length={self.min_length}"
            )

    @property
    def task(self) -> Task:
        """Ten classes of token sequences."""
        return Task(kind="text", num_classes=10, vocab_size=len(TOKENS), length=self.max_length)

    def description(self) -> str:
        """One line for the log."""
        return (
            f"ListOps of {self.min_length} to {self.max_length} tokens, depth {self.max_depth}, "
            f"{self.max_args} arguments ({self.train_size:,} for training)"
        )

    def draw(self, bits: np.random.Philox) -> Batch:
        """Those of 8,192 random expressions that have an allowed length."""
        levels, lengths = _grow(bits, self.max_depth, self.max_args, self.operator_probability, self.max_length)
        allowed = (lengths >= self.min_length) & (lengths <= self.max_length)
        value, size = _evaluate(levels)
        tokens = _write(levels, size, allowed, self.max_length)
        return {
            "inputs": tokens[allowed],
            "targets": value[allowed].astype(np.uint8),
            "weight": np.ones(np.count_nonzero(allowed), bool),
        }


@dataclass(frozen=True)
class _Level:
    """The nodes at one depth of all trees, children of one list next to each other, lists in their parents' order."""

    tree: np.ndarray  # number of the expression
    token: np.ndarray  # digit or operator
    is_list: np.ndarray
    count: np.ndarray  # arguments of each list of this level, () if it has none

    @property
    def first(self) -> np.ndarray:
        """Of each list of this level, its first argument's place in the next level."""
        return np.cumsum(self.count) - self.count


def _grow(
    bits: np.random.Philox, max_depth: int, max_args: int, operator_probability: float | int, max_length: int
) -> tuple[list[_Level], np.ndarray]:
    """Random trees from the root down, one level at a time, and the number of tokens of each (int64).

    A tree is cut as soon as it is longer than max_length: its length stays too large, its nodes are of no use.
    """
    lengths = np.ones(_CHUNK, np.int64)
    tree = np.arange(_CHUNK)
    levels = []
    for depth in range(1, max_depth + 1):
        probability = 1 if depth == 1 else operator_probability if depth < max_depth else 0
        is_list = uniform(bits, tree.shape) < probability
        operator = _OPERATOR + integers(bits, tree.shape, 4)
        token = np.where(is_list, operator, _DIGIT + integers(bits, tree.shape, 10))
        count = 2 + integers(bits, tree.shape, max_args - 1)
        # A list adds its bracket and its arguments to the one token that it counted for so far.
        lengths += np.bincount(tree[is_list], count[is_list] + 1, minlength=_CHUNK).astype(np.int64)
        is_list &= lengths[tree] <= max_length
        levels.append(_Level(tree, token, is_list, count[is_list]))
        tree = np.repeat(tree[is_list], count[is_list])
    return levels, lengths


def _evaluate(levels: list[_Level]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The value of each tree, and of each level's nodes their number of tokens: from the leaves up."""
    below, below_size, sizes = np.zeros(0, np.int64), np.zeros(0, np.int64), []
    for level in reversed(levels):
        first = level.first
        owner = np.repeat(np.arange(len(first)), level.count)
        ascending = below[np.lexsort((below, owner))]
        lower, upper = (ascending[first + half] for half in ((level.count - 1) // 2, level.count // 2))
        choices = (
            ascending[first],
            ascending[first + level.count - 1],
            (lower + upper) // 2,
            np.add.reduceat(below, first) % 10,
        )
        value, size = level.token - _DIGIT, np.ones_like(level.token)
        value[level.is_list] = np.choose(level.token[level.is_list] - _OPERATOR, choices)
        size[level.is_list] = 2 + np.add.reduceat(below_size, first)
        below, below_size = value, size
        sizes.append(size)
    return below, sizes[::-1]


def _write(levels: list[_Level], sizes: list[np.ndarray], allowed: np.ndarray, max_length: int) -> np.ndarray:
    """Tokens uint8 (expressions, max_length) of the allowed trees, rows of zeros for the others."""
    tokens = np.zeros((len(allowed), max_length), np.uint8)
    place = np.zeros(len(allowed), np.int64)
    for level, size, below in zip(levels, sizes, [*sizes[1:], np.zeros(0, np.int64)], strict=True):
        kept = allowed[level.tree]
        tokens[level.tree[kept], place[kept]] = level.token[kept]
        closed = kept & level.is_list
        tokens[level.tree[closed], (place + size - 1)[closed]] = _CLOSE
        # An argument follows its list's operator and the arguments before it.
        before = np.cumsum(below) - below
        place = before + np.repeat(place[level.is_list] + 1 - before[level.first], level.count)
    return tokens
