"""Multi-query associative recall (MQAR): pairs of a key and a value, then some keys again; answer with their values.

S. Arora, S. Eyuboglu et al., Zoology: Measuring and Improving Recall in Efficient Language Models, ICLR 2024
(arXiv:2312.04927), section 4 and appendix E. With the pairs 2-8 and 4-7:

    inputs   2 8 4 7 9 4 6 2     keys are 1 .. V/2 - 1, values V/2 .. V - 1, all different within an example
    targets          7   8       what the model should say at the place of the query itself
    weight   0 0 0 0 0 1 0 1

The places after the pairs are taken by twos; the query of each pair stands at the beginning of the g-th of them,
no two at the same, with a probability that falls as g ** (power_a - 1), as distances between repeated pairs
of words do in text. What is left over is filled with random tokens.
"""

from dataclasses import dataclass

import numpy as np

from jattn.data.dataset import Batch
from jattn.data.generated import Generated
from jattn.data.options import check_range
from jattn.data.streams import distinct, integers, uniform
from jattn.errors import UserError
from jattn.task import Task

_CHUNK = 2048  # examples drawn at a time


@dataclass(frozen=True)
class MQAR(Generated):
    """Tokens (B, sequence_length); targets and weight of the same shape, weight 1 where a query stands."""

    sequence_length: int = 64  # tokens, pairs included
    num_pairs: int = 8  # of a key and a value; each is asked for once
    vocab_size: int = 256  # V: keys in the lower half, values in the upper
    power_a: float | int = 0.01  # 1: queries lie anywhere with equal probability; towards 0: soon after the pairs
    random_filler: bool = True  # random tokens between the queries; False: token 0

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "num_pairs", 1)
        check_range(self, "power_a", 0)
        if self.sequence_length < 4 * self.num_pairs:
            raise UserError(
                f"sequence_length={self.sequence_length} of MQAR must be at least 4 * num_pairs = "
                f"{4 * self.num_pairs}: two places for each pair, two for each query"
            )
        if self.vocab_size // 2 - 1 < self.num_pairs:
            raise UserError(
                f"vocab_size={self.vocab_size} of MQAR must be at least 2 * num_pairs + 2 = "
                f"{2 * self.num_pairs + 2}, so that there are {self.num_pairs} different keys"
            )

    @property
    def task(self) -> Task:
        """Language modelling, asked about at the queries only."""
        return Task(kind="language", vocab_size=self.vocab_size, length=self.sequence_length)

    def description(self) -> str:
        """One line for the log."""
        return (
            f"associative recall of {self.num_pairs} pairs in {self.sequence_length} tokens, "
            f"vocabulary {self.vocab_size} ({self.train_size:,} for training)"
        )

    def draw(self, bits: np.random.Philox) -> Batch:
        """2,048 random examples."""
        pairs, half = self.num_pairs, self.vocab_size // 2
        keys = 1 + distinct(bits, _CHUNK, pairs, half - 1)
        values = half + distinct(bits, _CHUNK, pairs, self.vocab_size - half)

        inputs = np.zeros((_CHUNK, self.sequence_length), np.int32)
        if self.random_filler:
            inputs[:] = integers(bits, inputs.shape, self.vocab_size)
        inputs[:, 0 : 2 * pairs : 2] = keys
        inputs[:, 1 : 2 * pairs : 2] = values

        queries = 2 * pairs + 2 * self._gaps(bits)
        np.put_along_axis(inputs, queries, keys, axis=1)
        targets = np.zeros_like(inputs)
        np.put_along_axis(targets, queries, values, axis=1)
        weight = np.zeros(inputs.shape, bool)
        np.put_along_axis(weight, queries, True, axis=1)
        return {"inputs": inputs, "targets": targets, "weight": weight}

    def _gaps(self, bits: np.random.Philox) -> np.ndarray:
        """For each pair another one of the twos after the pairs, (examples, num_pairs).

        Of exponential variables with rates p, the smallest is the i-th with probability p_i, the next smallest
        is so among the rest, and so on: their order is a weighted draw without replacement.
        """
        slots = self.sequence_length // 2 - self.num_pairs
        rate = np.arange(1, slots + 1) ** (self.power_a - 1.0)
        arrival = -np.log1p(-uniform(bits, (_CHUNK, slots))) / rate[None]
        return np.argsort(arrival, axis=1, kind="stable")[:, : self.num_pairs]
