"""The Vision Transformer of the ConvNN repository, with every layer that it can be built of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jattn.attention import MECHANISMS, Attention
from jattn.attention.mechanism import Mechanism, mechanism
from jattn.interop.original import branching, convnn, kvt, local, neighborhood, softmax, sparse
from jattn.interop.original.rules import Inputs, Original, Params, Settings, layer_norm, linear, under
from jattn.models import VisionTransformer
from jattn.types import Array

LAYERS: dict[str, tuple[Original, Callable[[Settings], dict[str, Any]]]] = {
    "Attention": (softmax.ORIGINALS["multihead_attention"]["MultiHeadAttention"], dict),
    "ConvNNAttention": (convnn.ORIGINALS["convnn_attention"]["MultiHeadConvNNAttention"], dict),
    "BranchConv": (branching.ORIGINALS["branching_conv"]["MultiHeadBranchingConv"], dict),
    "BranchAttention": (branching.ORIGINALS["branching_attention"]["MultiHeadBranchingAttention"], dict),
    "KvtAttention": (
        kvt.ORIGINALS["kvt_attention"]["MultiHeadKvtAttention"],
        lambda settings: {"dim": settings["d_hidden"], "num_heads": settings["num_heads"], "topk": settings["K"]},
    ),
    "LocalAttention": (
        local.ORIGINALS["local_attention"]["MultiHeadLocalAttention"],
        lambda settings: {
            "dim": settings["d_hidden"],
            "heads": settings["num_heads"],
            "dim_head": 64,
            "window_size": 128,
        },
    ),
    "SparseAttention": (
        sparse.ORIGINALS["sparse_attention"]["MultiHeadSparseAttention"],
        lambda settings: {
            "d_hidden": settings["d_hidden"],
            "num_heads": settings["num_heads"],
            "attn_mode": settings["sparse_mode"],
            "local_attn_ctx": settings["sparse_context_window"],
        },
    ),
    "NeighborhoodAttention": (
        neighborhood.ORIGINALS["neighborhood_attention_1d"]["NeighborhoodAttention1D"],
        lambda settings: {
            "dim": settings["d_hidden"],
            "num_heads": settings["num_heads"],
            "kernel_size": settings["K"],
            "stride": 1,
            "dilation": 1,
            "is_causal": False,
            "qkv_bias": False,
        },
    ),
}
"""Name of the layer -> what is known of its class, and the arguments that the ViT gives it."""


def vit(settings: Settings) -> VisionTransformer:
    """`ViT`. The sequence's length, which the released code hands to no layer, is that of its input."""
    layer, arguments = LAYERS[settings["layer"]]
    return VisionTransformer(
        width=settings["d_hidden"],
        depth=settings["num_layers"],
        num_heads=settings["num_heads"],
        mlp_dim=settings["d_mlp"],
        patch_size=settings["patch_size"],
        num_outputs=settings["num_classes"],
        attention=_mechanism(layer.module(arguments(settings))),
        dropout_rate=settings["dropout"],
        attention_dropout_rate=settings["attention_dropout"],
        norm_epsilon=1e-5,
        embedding_norm=True,
        positions="sinusoidal",
        pooling="class_token",
        final_norm=False,
    )


def vit_params(settings: Settings, params: Params) -> dict[str, Any]:
    """The layers' attention as each by itself."""
    layer, arguments = LAYERS[settings["layer"]]
    moved = {
        "patch_embedding": {
            "projection": {
                "kernel": params["patch_embedding.linear_projection.weight"].transpose(2, 3, 1, 0),
                "bias": params["patch_embedding.linear_projection.bias"],
            }
        },
        "norm_embedding": layer_norm(params, "patch_embedding.norm"),
        "class_token": params["positional_encoding.cls_tokens"].reshape(-1),
        "head": {"output": linear(params, "classifier")},
    }
    for i in range(settings["num_layers"]):
        of_layer = under(params, f"transformer_encoder.{i}.")
        moved[f"block_{i}"] = {
            "attention": layer.params(arguments(settings), under(of_layer, "attention.")),
            "norm_attention": layer_norm(of_layer, "norm1"),
            "norm_mlp": layer_norm(of_layer, "norm2"),
            "mlp": {"hidden": linear(of_layer, "mlp.0"), "output": linear(of_layer, "mlp.3")},
        }
    return moved


def call_with_pictures(module: VisionTransformer, variables: Any, inputs: Inputs) -> Array:
    """x (B, channels, height, width)."""
    return module.apply(variables, jnp.moveaxis(inputs["x"], 1, -1))


def _mechanism(module: Attention) -> Mechanism:
    """The mechanism whose options are the fields in which a module differs from their defaults."""
    name = next(name for name, kind in MECHANISMS.items() if kind is type(module))
    fields = {field.name: field.default for field in dataclasses.fields(module) if field.name not in ("name", "parent")}
    own = {field: getattr(module, field) for field in fields}
    return mechanism(name, {field: value for field, value in own.items() if value != fields[field]})


ORIGINALS = {"vit": {"ViT": Original(vit, vit_params, call_with_pictures)}}
