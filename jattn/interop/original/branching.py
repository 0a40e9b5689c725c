"""Branching attention and its convolutional sibling, as the ConvNN repository wrote them."""

from typing import Any

from jattn.attention import BranchingAttention, BranchingConvAttention
from jattn.interop.original.conv1d import conv1d_attention_params
from jattn.interop.original.convnn import convnn_attention_params, convnn_options
from jattn.interop.original.rules import Original, Params, Settings, linear, under
from jattn.interop.original.softmax import multihead_attention_params


def branching_conv(settings: Settings) -> BranchingConvAttention:
    """`MultiHeadBranchingConv`."""
    return BranchingConvAttention(kernel_size=settings["kernel_size"], **_options(settings))


def branching_attention(settings: Settings) -> BranchingAttention:
    """`MultiHeadBranchingAttention`."""
    return BranchingAttention(**_options(settings))


def branching_params(settings: Settings, params: Params) -> dict[str, Any]:
    """`convnn.`, `conv1d.` and `attention.` as each by itself, where there is such a branch; pointwise_linear."""
    rules = {
        "convnn": convnn_attention_params,
        "conv1d": conv1d_attention_params,
        "attention": multihead_attention_params,
    }
    branches = {name: (rule, under(params, f"{name}.")) for name, rule in rules.items()}
    moved = {name: rule(settings, released) for name, (rule, released) in branches.items() if released}
    return moved | {"pointwise": linear(params, "pointwise_linear")}


def _options(settings: Settings) -> dict[str, Any]:
    return convnn_options(settings) | {"branch_ratio": settings["branch_ratio"], "use_bias": True}


ORIGINALS = {
    "branching_conv": {"MultiHeadBranchingConv": Original(branching_conv, branching_params)},
    "branching_attention": {"MultiHeadBranchingAttention": Original(branching_attention, branching_params)},
}
