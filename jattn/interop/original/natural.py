"""Natural attention as its repository wrote it, alone and in a block of GPT-2's kind."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jattn.attention import NaturalAttention
from jattn.attention.mechanism import mechanism
from jattn.attention.natural import Released
from jattn.interop.original.rules import (
    Inputs,
    Original,
    Params,
    Settings,
    from_heads,
    layer_norm,
    linear,
    to_heads,
    under,
)
from jattn.models.block import Block
from jattn.types import Array


def natural_attention(settings: Settings) -> NaturalAttention:
    """`NaturalAttention`."""
    return NaturalAttention(settings["n_head"], as_published=True)


def natural_attention_params(settings: Settings, params: Params) -> dict[str, dict[str, Array]]:
    """q_proj, k_proj, v_proj, out_proj."""
    heads = settings["n_head"]
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    return {ours: to_heads(params, theirs, heads) for ours, theirs in names.items()} | {
        "out": from_heads(params, "out_proj", heads)
    }


def block(settings: Settings) -> Block:
    """`Block`: pre-norm, an mlp of four times the width, exact gelu."""
    return Block(
        mechanism("natural", {"as_published": True}),
        num_heads=settings["n_head"],
        mlp_dim=4 * settings["n_embd"],
        norm_epsilon=1e-5,
    )


def block_params(settings: Settings, params: Params) -> dict[str, Any]:
    """ln_1, attn, ln_2, mlp.0, mlp.2."""
    return {
        "norm_attention": layer_norm(params, "ln_1"),
        "attention": natural_attention_params(settings, under(params, "attn.")),
        "norm_mlp": layer_norm(params, "ln_2"),
        "mlp": {"hidden": linear(params, "mlp.0"), "output": linear(params, "mlp.2")},
    }


def with_arguments(module: nn.Module, variables: Any, inputs: Inputs, **options: Any) -> Any:
    """`module.apply` on x, with the released class's other arguments handed to its attention, wherever that is.

    inputs: x; as far as given, const_attention_mask, const_head_mask, and past_k with past_v.
    """
    released = Released(
        additive_mask=inputs.get("const_attention_mask"),
        head_mask=inputs.get("const_head_mask"),
        past=(inputs["past_k"], inputs["past_v"]) if "past_k" in inputs else None,
    )

    def hand(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, NaturalAttention) and context.method_name == "__call__":
            kwargs = kwargs | {"released": released}
        return call(*args, **kwargs)

    with nn.intercept_methods(hand):
        return module.apply(variables, inputs["x"], **options)


_BLOCK = Original(block, block_params, with_arguments)

ORIGINALS = {
    "natural_attention": {
        "NaturalAttention": Original(natural_attention, natural_attention_params, with_arguments),
        "Block": _BLOCK,
    },
    "natural_attention_optimizer": {"AttentionInformedOptimizer on Block": _BLOCK},
}
