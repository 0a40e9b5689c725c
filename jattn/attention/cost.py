"""What one forward pass of a mechanism costs, by formula.

FLOPs are floating-point operations as XLA counts them: two a multiply-add, one for each elementwise operation, none
for exponentials and other transcendentals. Tests compare them with XLA's own count of the dense path.
"""

from dataclasses import dataclass

_SOFTMAX = 5  # maximum, subtraction, sum, division, and the guard of empty rows
_CAUSAL = 3  # the lag, its comparison, the addition of the bias
_OVER_QUERIES = 6  # scale, maximum, subtraction, sum and guard once more, and the normaliser's subtraction
ROTARY = 3  # per feature: two products, one sum
RMS_NORM = 3  # per feature: square, sum, scaling


@dataclass(frozen=True)
class Cost:
    """Costs of one forward pass; they add.

    params: scalars in the parameters.
    flops: floating-point operations.
    bytes: least traffic with the memory: parameters read once, and every array that passes between projections and
      attention written once and read once. The (T, S) matrix of weights is not among them.
    """

    params: int
    flops: int
    bytes: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.flops + other.flops, self.bytes + other.bytes)


def projection(tokens: int, inputs: int, outputs: int, *, use_bias: bool, dtype_bytes: int) -> Cost:
    """The cost of one linear map of `tokens` tokens from `inputs` to `outputs` features."""
    params = inputs * outputs + outputs * use_bias
    flops = tokens * outputs * (2 * inputs + use_bias)
    return Cost(params, flops, dtype_bytes * (params + tokens * (inputs + outputs)))


def attention(
    queries: int,
    keys: int,
    *,
    batch: int,
    heads: int,
    key_heads: int,
    score: int,
    features: tuple[int, int],
    values: int,
    causal: bool,
    dtype_bytes: int,
    over_queries: bool = False,
) -> Cost:
    """The cost of softmax attention of all heads of `batch` examples, every pair computed.

    score: FLOPs of the score of a pair.
    features: numbers per query and head, and per key and head, that the score reads.
    values: E, features of a value.
    over_queries: the softmax is over the queries (see `jattn.core.over_queries`).
    """
    pairs = batch * heads * queries * keys
    tokens = heads * queries * (features[0] + values) + key_heads * keys * (features[1] + values)
    flops = pairs * (score + _SOFTMAX + causal * _CAUSAL + 2 * values)
    if over_queries:
        # The products of queries and keys are those of the second call: XLA computes them once on the dense path.
        flops += pairs * _OVER_QUERIES + batch * heads * queries * values
        tokens += heads * queries * features[0] + key_heads * keys * features[1]
    return Cost(0, flops, dtype_bytes * batch * tokens)
