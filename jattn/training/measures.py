"""The numbers that papers report, from sums over a whole split."""

import math
from collections.abc import Mapping, Sequence

from jattn.task import Task


def measures(sums: Mapping[str, tuple[float | int, float | int]], task: Task) -> dict[str, float]:
    """Means, and for language what the loss is called there.

    Args:
      sums: (weighted sum, sum of weights) of loss (nats a token), accuracy and perhaps top5_accuracy.
      task: says whether this is language, and how many tokens a byte and a character have.

    Returns:
      loss, accuracy, top5_accuracy; for language also perplexity = exp(loss), bits_per_token = loss / ln 2, and,
      where the text has bytes and characters, bits_per_byte and bits_per_character: bits_per_token times tokens_per_...

    >>> measures({"loss": (math.log(2) * 6, 3)}, Task(kind="language", tokens_per_byte=0.25))["bits_per_byte"]
    0.5
    """
    found = {name: total / count for name, (total, count) in sums.items()}
    if task.kind == "language":
        found["perplexity"] = math.inf if found["loss"] > 700 else math.exp(found["loss"])
        found["bits_per_token"] = found["loss"] / math.log(2)
        for unit, tokens in (("byte", task.tokens_per_byte), ("character", task.tokens_per_character)):
            if tokens is not None:
                found[f"bits_per_{unit}"] = found["bits_per_token"] * tokens
    return found


def names(measured: Sequence[str], task: Task) -> tuple[str, ...]:
    """Names of what `measures` finds, given the names of the sums.

    >>> names(("loss", "accuracy"), Task(kind="language", tokens_per_byte=1.0))
    ('loss', 'accuracy', 'perplexity', 'bits_per_token', 'bits_per_byte')
    """
    return tuple(measures(dict.fromkeys(measured, (0.0, 1.0)), task))
