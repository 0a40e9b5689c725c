"""What can be wrong with a model's options, each said in one sentence before anything is computed."""

from typing import Any

import jax.numpy as jnp

from jattn import core
from jattn.errors import UserError, unknown
from jattn.models.block import NORM_POSITIONS, REMAT, Block
from jattn.models.layers import ACTIVATIONS
from jattn.models.positions import POSITIONS

POOLINGS = ("mean", "class_token")
DTYPES = ("float32", "bfloat16", "float64")


def check_options(model: Any) -> None:
    """Raises UserError for the first option of a `Transformer` that is out of range or contradicts another."""
    for name in ("width", "depth", "num_heads", "mlp_dim", "max_length"):
        _at_least_one(name, getattr(model, name))
    for name, known in (
        ("activation", ACTIVATIONS),
        ("norm_position", NORM_POSITIONS),
        ("positions", POSITIONS),
        ("remat", ("none", *REMAT)),
    ):
        if getattr(model, name) not in known:
            raise unknown(name, getattr(model, name), known)
    for part in ("", "embedding_", "attention_", "mlp_", "head_"):
        name = f"{part}dropout_rate"
        rate = getattr(model, name, None)  # models that do not classify have no head
        if rate is not None and not 0 <= rate < 1:
            raise UserError(f"{name} is {rate}: choose a share from 0 to below 1")
    _check_dtype(model.dtype)
    _check_layers(model)


def check_pooling(pooling: str) -> None:
    """UserError for a pooling that does not exist."""
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f"{name} is {value}: choose a number of at least 1")


def _check_dtype(dtype: Any) -> None:
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = dtype
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)


def _check_layers(model: Any) -> None:
    """Every layer's mechanism fits the model's width and positions, and can be made as the model needs it."""
    if isinstance(model.attention, tuple) and len(model.attention) != model.depth:
        raise UserError(
            f"attention names {len(model.attention)} mechanisms for a model of depth {model.depth}: "
            f"give one, or one for each layer"
        )
    layers = model.attention if isinstance(model.attention, tuple) else (model.attention,)
    if model.positions == "rotary":
        lacking = [(i, layer.name) for i, layer in enumerate(layers) if not layer.has_field("rotary")]
        if lacking:
            names = ", ".join(f"{name!r} (layer {i})" for i, name in lacking)
            raise UserError(f"positions 'rotary' need mechanisms that have the option: {names} cannot rotate")
    if model.implementation is not None and all(layer.lacks("implementations") for layer in layers):
        names = ", ".join(sorted({layer.name for layer in layers}))
        raise UserError(f"implementation {model.implementation!r} does nothing: {names} know one way; leave it out")
    for i, layer in enumerate(model.mechanisms()):
        # Made and thrown away: a mechanism refuses what it cannot do, such as being causal, when it is made.
        attention = Block(mechanism=layer, **model.block_options(), parent=None).attention_module(parent=None)
        if attention.head_dim is None and model.width % attention.num_heads:
            raise UserError(
                f"num_heads {attention.num_heads} does not divide width {model.width} in layer {i} ({layer.name}): "
                f"choose a divisor, or give the mechanism a head_dim"
            )
        if attention.implementation is not None and attention.implementation not in core.IMPLEMENTATIONS:
            raise unknown("attention implementation", attention.implementation, core.IMPLEMENTATIONS)
