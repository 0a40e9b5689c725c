"""The numbers that papers report, from sums over a whole split."""

import math
from collections.abc import Mapping

from jattn.task import Task


def measures(sums: Mapping[str, tuple[float | int, float | int]], task: Task) -> dict[str, float]:
    """Means, and for language what the loss is called there.

    Args:
      sums: (weighted sum, sum of weights) of loss (nats a token), accuracy and perhaps top5_accuracy.
      task: says whether this is language, and how many tokens a byte has.

    Returns:
      loss, accuracy, top5_accuracy; for language also perplexity = exp(loss), bits_per_token = loss / ln 2, and,
      where the text has bytes, bits_per_byte = bits_per_token * tokens_per_byte.

    >>> measures({"loss": (math.log(2) * 6, 3)}, Task(kind="language", tokens_per_byte=0.25))["bits_per_byte"]
    0.5
    """
    found = {name: total / count for name, (total, count) in sums.items()}
    if task.kind == "language":
        found["perplexity"] = math.exp(found["loss"]) if found["loss"] < 700 else math.inf
        found["bits_per_token"] = found["loss"] / math.log(2)
        if task.tokens_per_byte is not None:
            found["bits_per_byte"] = found["bits_per_token"] * task.tokens_per_byte
    return found
