"""What the heads of adaptive-span layers have learned to look at."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jattn.attention import MECHANISMS, AdaptiveSpanAttention
from jattn.models.transformer import Transformer


def spans(model: Transformer, params: Mapping[str, Any], length: int) -> dict[str, Any]:
    """Of each adaptive-span layer, by its block's name: a number for each head, for sequences of so many tokens.

    Returns:
      what `jattn.attention.adaptive_span.Spans` says: span, reach, period (without the wave None), keys (unmasked, mean
      over the queries), removed (share of the keys within the span that the wave masks), and saved (share of the blocks
      of pairs that are not computed). Empty for a model without such layers.
    """
    found = {}
    for i, layer in enumerate(model.mechanisms()):
        if MECHANISMS[layer.name] is not AdaptiveSpanAttention:
            continue
        module = layer.module(num_heads=model.num_heads, causal=model.causal)
        seen = module.spans(params[f"block_{i}"]["attention"], length)
        names = ("span", "reach", "period", "keys", "removed")
        heads = {name: np.asarray(getattr(seen, name), np.float64).tolist() for name in names}
        heads["period"] = [period if period == period else None for period in heads["period"]]  # NaN: no wave
        found[f"block_{i}"] = heads | {"saved": float(seen.saved)}
    return found
