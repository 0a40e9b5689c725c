"""The attention layers of the pay-better-attention repository, and its classifier of film reviews."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jattn.attention import MECHANISMS, Attention
from jattn.attention.mechanism import Mechanism, mechanism
from jattn.interop.original.rules import Inputs, Original, Params, Settings, from_heads, layer_norm, linear, under
from jattn.models import TextClassifier
from jattn.types import Array, Float

NAMES = {"Optimised": "optimised", "Efficient": "efficient", "Super": "super"}
"""layer_type -> our mechanism; any other type is softmax attention."""


def mechanism_of(settings: Settings, *, d_k: int, d_v: int, shared: bool) -> Mechanism:
    """An `AttentionLayer` for each head. Its softmax is over dim 1 of (batch, queries, keys), or as patched over 2."""
    name = NAMES.get(settings["layer_type"], "softmax")
    axis = {1: "queries", 2: "keys"}[settings.get("softmax_dim", 1)]
    options: dict[str, Any] = {"head_dim": d_k, "softmax_axis": axis, "as_published": True}
    if name in ("softmax", "optimised"):
        options["value_dim"] = d_v
    if name == "super":
        options |= {"max_length": settings["max_len"], "shared": shared}
    return mechanism(name, options)


def attention(settings: Settings) -> Attention:
    """`MultiHeadAttention`, of either file: with a W_a for each head ("indiv") or one ("shared")."""
    shared = settings.get("variant") == "shared"
    found = mechanism_of(settings, d_k=settings["d_k"], d_v=settings["d_v"], shared=shared)
    return MECHANISMS[found.name](settings["n_heads"], **dict(found.options))


def attention_params(settings: Settings, params: Params) -> dict[str, dict[str, Array]]:
    """W_q, W_k and W_v of each head, as far as its type has them, W_a, and W_o.

    A shared W_a is an attribute of each head and of the whole, all names for one array: it is read from the first.
    """
    heads = settings["n_heads"]

    def of_heads(name: str, suffix: str, move: Callable[[Array], Array]) -> Float[Array, "..."]:
        return jnp.stack([move(params[f"layers.Attention_Layer {h}.{name}.{suffix}"]) for h in range(heads)])

    found = {"out": from_heads(params, "W_o", heads)}
    for ours, theirs in (("query", "W_q"), ("key", "W_k"), ("value", "W_v")):
        if f"layers.Attention_Layer 0.{theirs}.weight" in params:
            kernels = of_heads(theirs, "weight", lambda weight: weight.T)
            found[ours] = {"kernel": kernels.swapaxes(0, 1), "bias": of_heads(theirs, "bias", lambda bias: bias)}
    if settings["layer_type"] == "Super":
        if settings.get("variant") == "shared":
            first = "layers.Attention_Layer 0.W_a" if "layers.Attention_Layer 0.W_a.weight" in params else "W_a"
            matrix = {"kernel": params[f"{first}.weight"].T[:, None], "bias": params[f"{first}.bias"][None]}
        else:
            kernels = of_heads("W_a", "weight", lambda weight: weight.T)
            matrix = {"kernel": kernels.swapaxes(0, 1), "bias": of_heads("W_a", "bias", lambda bias: bias)}
        found["mixing"] = matrix
    return found


def call_attention(module: nn.Module, variables: Any, inputs: Inputs) -> Array:
    """Of x, or of inp_q, inp_k and inp_v, which need not be one context: the values are then handed over apart."""
    if "inp_q" not in inputs:
        return module.apply(variables, inputs["x"])

    def hand(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "read":
            args = (args[0], inputs["inp_v"], *args[2:])
        return call(*args, **kwargs)

    with nn.intercept_methods(hand):
        return module.apply(variables, inputs["inp_q"], context=inputs["inp_k"])


def transformer(settings: Settings) -> TextClassifier:
    """`Transformer`, which reads padding as it reads any other token."""
    size = settings["d_model"] // settings["n_heads"]
    return TextClassifier(
        vocab_size=settings["vocab_size"],
        num_outputs=1,
        width=settings["d_model"],
        depth=settings["n_layers"],
        num_heads=settings["n_heads"],
        mlp_dim=settings["d_lin"],
        activation="relu",
        norm_position="post",
        norm_epsilon=1e-6,
        positions="learned",
        pooling="mean",
        head_hidden_dim=6,
        max_length=settings["max_len"],
        padding_token=None,
        attention=mechanism_of(settings, d_k=size, d_v=size, shared=settings.get("shared_W_a", True)),
    )


def transformer_params(settings: Settings, params: Params) -> dict[str, Any]:
    """encoder.embedding, encoder.encoder_layers, dense1, dense2."""
    tables = {"token_embedding": "token_emb", "position_embedding": "pos_emb"}
    found: dict[str, Any] = {
        ours: {"embedding": params[f"encoder.embedding.{theirs}.weight"]} for ours, theirs in tables.items()
    }
    variant = {"variant": "shared" if settings.get("shared_W_a", True) else "indiv"}
    for i in range(settings["n_layers"]):
        layer = under(params, f"encoder.encoder_layers.Encoder_Layer{i}.")
        found[f"block_{i}"] = {
            "attention": attention_params({**settings, **variant}, under(layer, "multi.")),
            "norm_attention": layer_norm(layer, "norm_multi"),
            "norm_mlp": layer_norm(layer, "norm_ff"),
            "mlp": {"hidden": linear(layer, "ff.0"), "output": linear(layer, "ff.2")},
        }
    return found | {"head": {"hidden": linear(params, "dense1"), "output": linear(params, "dense2")}}


def call_transformer(module: TextClassifier, variables: Any, inputs: Inputs) -> Array:
    """Of tokens x. Its table of positions is added as a whole, so a text of one token becomes max_len copies of it."""
    tokens = inputs["x"]
    if tokens.shape[1] == 1:
        tokens = jnp.broadcast_to(tokens, (tokens.shape[0], module.max_length))
    return module.apply(variables, tokens)


ORIGINALS = {
    "pay_better_attention": {"MultiHeadAttention": Original(attention, attention_params, call_attention)},
    "pay_better_attention_transformer": {
        "Transformer": Original(transformer, transformer_params, call_transformer),
    },
}
