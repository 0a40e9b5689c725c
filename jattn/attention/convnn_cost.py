"""What the neighbours of ConvNN attention and their convolution cost; see `jattn.attention.cost`."""

from typing import Any

from jattn.attention.convnn_convolution import cost as convolution_cost
from jattn.attention.cost import Cost

_SELECTION = 4  # of a pair: comparisons and choices that put NaN last
_CAUSAL = 2  # of a pair: comparison and choice
_WEIGHT = 6  # of a neighbour: softmax, and the choice of those that exist


def convnn_cost(module: Any, T: int, S: int, D: int, batch: int, dtype_bytes: int) -> Cost:
    """The cost of everything between the projections of a ConvNNAttention with heads of D features."""
    H, K = module.num_heads, module.K
    features = D + module.coordinate_encoding
    values = D + (module.coordinate_encoding and module.convolution_type != "depthwise")
    candidates = S
    if module.sampling_type != "all":
        candidates = min(S, module.num_samples if module.candidates is None else len(module.candidates))
    per_pair, per_neighbour, per_token = {
        "matmul": (2 * features + 1, 2 * features + 1, 0),
        "cosine": (2 * features, 2 * features, 3 * features),
        "euclidean": (2 * features + 6, 3 * features + 3, 2 * features),
    }[module.magnitude_type]
    per_pair += _SELECTION + _CAUSAL * module.causal
    per_neighbour += _WEIGHT + values
    flops = H * (T * (candidates * per_pair + K * per_neighbour) + (T + candidates) * per_token)
    moved = H * (T * (features + K * (features + values) + D) + S * (features + values))
    convolution = convolution_cost(module.convolution_type, batch * H * T, K, values, D, dtype_bytes)
    return Cost(0, batch * flops, dtype_bytes * batch * moved) + convolution
