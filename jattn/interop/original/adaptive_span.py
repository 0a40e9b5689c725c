"""Adaptive span and triangle wave, as Lookatator/Adaptive-nanoGPT wrote them."""

from typing import Any

import jax

from jattn.attention import AdaptiveSpanAttention
from jattn.interop.original.rules import Inputs, Original, Params, Settings, from_heads, split_linear, to_heads
from jattn.types import Array


def adaptive_causal_attention(settings: Settings) -> AdaptiveSpanAttention:
    """`AdaptiveCausalAttention`."""
    return AdaptiveSpanAttention(
        settings["n_head"],
        causal=True,
        use_bias=settings["bias"],
        as_published=True,
        max_span=settings["block_size_max_span"],
        softness=settings["softness_R"],
        span_reg=settings["span_reg"],
        periodic=settings["use_triangle_wave_masking"],
        period_min=settings["period_min"],
        period_max=settings["period_max"],
        harmonics=settings["max_harmonics"],
    )


def adaptive_causal_attention_params(settings: Settings, params: Params) -> dict[str, dict[str, Array] | Array]:
    """c_attn (queries, keys and values), c_proj, and a number of each kind for each head."""
    heads = settings["n_head"]
    parts = zip(("query", "key", "value"), split_linear(params, "c_attn", 3), strict=True)
    ours = {name: to_heads(part, "", heads) for name, part in parts}
    ours |= {"out": from_heads(params, "c_proj", heads), "span_logit": params["span_params"]}
    if settings["use_triangle_wave_masking"]:
        ours["period_logit"] = params["triangle_wave.period_weight"]
        ours["ratio_logit"] = params["triangle_wave.ratio_weight"]
    return ours


def regularizer(module: AdaptiveSpanAttention, variables: Any, inputs: Inputs) -> Array:
    """The loss term that the class returns beside its output."""
    _, sown = module.apply(variables, inputs["x"], mutable=["losses"])
    (term,) = jax.tree.leaves(sown["losses"])
    return term


_ORIGINAL = Original(adaptive_causal_attention, adaptive_causal_attention_params)

ORIGINALS = {
    "adaptive_span": {"AdaptiveCausalAttention": _ORIGINAL},
    "adaptive_span_triangle": {"AdaptiveCausalAttention": _ORIGINAL},
}
