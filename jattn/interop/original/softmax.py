"""Dot-product attention as the released codes that compare with it wrote it."""

from typing import Any

import flax.linen as nn

from jattn.attention import SoftmaxAttention
from jattn.interop.original.rules import Inputs, Original, Params, Settings, from_heads, to_heads
from jattn.types import Array


def multihead_attention(settings: Settings) -> SoftmaxAttention:
    """`MultiHeadAttention` of the ConvNN repository."""
    return SoftmaxAttention(settings["num_heads"], use_bias=False, as_published=True)


def multihead_attention_params(settings: Settings, params: Params) -> dict[str, dict[str, Array]]:
    """W_q, W_k, W_v, W_o without biases."""
    heads = settings["num_heads"]
    return {
        "query": to_heads(params, "W_q", heads),
        "key": to_heads(params, "W_k", heads),
        "value": to_heads(params, "W_v", heads),
        "out": from_heads(params, "W_o", heads),
    }


def call_with_mask(module: nn.Module, variables: Any, inputs: Inputs) -> Array:
    """mask (B, 1 or H, T, S): 0 = may not attend."""
    mask = inputs["mask"] != 0 if "mask" in inputs else None
    return module.apply(variables, inputs["x"], mask)


ORIGINALS = {
    "multihead_attention": {
        "MultiHeadAttention": Original(multihead_attention, multihead_attention_params, call_with_mask)
    },
}
