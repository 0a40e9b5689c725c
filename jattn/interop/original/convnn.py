"""`MultiHeadConvNNAttention` of the ConvNN repository (mingikang31/Convolutional-Nearest-Neighbor-Attention)."""

from typing import Any

import jax.numpy as jnp

from jattn.attention import ConvNNAttention
from jattn.interop.original.rules import Original, Params, Settings, from_heads, to_heads

_OPTIONS = (
    "num_heads",
    "K",
    "sampling_type",
    "num_samples",
    "sample_padding",
    "magnitude_type",
    "convolution_type",
    "softmax_topk_val",
    "coordinate_encoding",
)


def convnn_options(settings: Settings) -> dict[str, Any]:
    """Its module's fields; `candidates`, a recorded permutation of the tokens, replaces what it would draw."""
    options = {name: settings[name] for name in _OPTIONS}
    permutation = settings.get("candidates")
    if permutation is not None and settings["sampling_type"] == "random":
        options["candidates"] = tuple(int(i) for i in permutation)[: settings["num_samples"]]
    dropout_rate = settings.get("attention_dropout", 0.0)
    return options | {"dropout_rate": dropout_rate, "use_bias": False, "as_published": True}


def convnn_attention(settings: Settings) -> ConvNNAttention:
    """Its module."""
    return ConvNNAttention(**convnn_options(settings))


def convnn_attention_params(settings: Settings, params: Params) -> dict[str, Any]:
    """W_q, W_k, W_v, W_o without biases, and the convolution's weights (out, in / groups, K)."""
    heads = settings["num_heads"]
    if settings["convolution_type"] == "standard":
        conv = {"kernel": params["conv.weight"].transpose(2, 1, 0)}
    elif settings["convolution_type"] == "depthwise":
        conv = {"kernel": params["conv.weight"].transpose(2, 1, 0).squeeze(1)}
    else:
        depthwise, pointwise = params["conv.0.weight"], params["conv.1.weight"]
        conv = {"kernel": depthwise.squeeze(1).T, "pointwise": jnp.squeeze(pointwise, 2).T}
    return {
        "query": to_heads(params, "W_q", heads),
        "key": to_heads(params, "W_k", heads),
        "value": to_heads(params, "W_v", heads),
        "conv": conv,
        "out": from_heads(params, "W_o", heads),
    }


ORIGINALS = {
    "convnn_attention": {"MultiHeadConvNNAttention": Original(convnn_attention, convnn_attention_params)},
}
