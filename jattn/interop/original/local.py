"""Local attention as the ConvNN repository wrote it."""

from typing import Any

import flax.linen as nn

from jattn.attention import LocalAttention
from jattn.interop.original.rules import (
    Inputs,
    Original,
    Params,
    Settings,
    from_heads,
    layer_norm,
    linear,
    split_linear,
    to_heads,
)
from jattn.types import Array

_OPTIONS = (
    "window_size",
    "look_backward",
    "look_forward",
    "exact_windowsize",
    "xpos_scale_base",
    "qk_rmsnorm",
    "qk_scale",
    "gate_values_per_head",
    "prenorm",
)
"""Settings that are fields of ours, with the same defaults."""


def local_attention(settings: Settings) -> LocalAttention:
    """`MultiHeadLocalAttention`; what its settings leave out is as in its signature."""
    options = {name: settings[name] for name in _OPTIONS if name in settings}
    rotary = settings.get("use_rotary_pos_emb", True)
    return LocalAttention(
        settings.get("heads", 8),
        settings.get("dim_head", 64),
        causal=settings.get("causal", False),
        use_bias=False,
        rotary=rotary,
        use_xpos=rotary and settings.get("use_xpos", False),
        as_published=True,
        **options,
    )


def local_attention_params(settings: Settings, params: Params) -> dict[str, Any]:
    """One Linear for queries, keys and values, features ordered (part, head, feature); to_out without a bias."""
    heads = settings.get("heads", 8)
    parts = zip(("query", "key", "value"), split_linear(params, "to_qkv", 3), strict=True)
    ours = {name: to_heads(part, "", heads) for name, part in parts} | {"out": from_heads(params, "to_out", heads)}
    if settings.get("prenorm", False):
        ours["norm"] = layer_norm(params, "norm")
    if settings.get("qk_rmsnorm", False):
        ours |= {"query_scale": params["q_scale"], "key_scale": params["k_scale"]}
    if settings.get("gate_values_per_head", False):
        ours["gate"] = linear(params, "to_v_gate.0")
    return ours


def local_attention_call(module: nn.Module, variables: Any, inputs: Inputs) -> Array:
    """`mask` is one of keys, `attn_bias` that of a window."""
    return module.apply(variables, inputs["x"], inputs.get("mask"), attn_bias=inputs.get("attn_bias"))


ORIGINALS = {
    "local_attention": {
        "MultiHeadLocalAttention": Original(local_attention, local_attention_params, local_attention_call)
    }
}
"""What `jattn.interop.original` knows of them."""
