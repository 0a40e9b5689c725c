"""The full matrix of weights, for analysis: O(T S) memory."""

from typing import Any

from jattn.core.dense import logits, softmax
from jattn.core.scores import Dot
from jattn.core.sharding import of_pairs
from jattn.types import Array, Float, Int, Tokens


def weights(
    q: Tokens,
    k: Tokens,
    *,
    score: Any = Dot(),  # noqa: B008 (an immutable value)
    bias: Any = None,
    mask: Any = None,
    offset: int | Int[Array, ""] = 0,
) -> Float[Array, "B H T S"]:
    """The weights that `attend` gives the values for the same arguments, before dropout, in float32 or better.

    Rows sum to 1; those of queries without keys are zero. Arguments as in `jattn.core.attend`.
    """
    return of_pairs(lambda call: call.ungroup(softmax(logits(call))[0]), q, k, score, bias, mask, offset)
