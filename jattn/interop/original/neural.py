"""Neural attention and its baseline (github.com/awayfromzel/neural-attention-research).

The repository holds four projects, language or vision, neural or standard, each with its own file for classes of the
same name: which one a class comes from is the first folder of the setting `source`. Where that is not given,
parameters tell (`completed`). Common to all of them, the rows of `to_qkv` are ordered (feature, q | k | v, head).

What the released code does and ours does not: a causal layer ignores the caller's mask (left out in the call here); a
row with nothing to attend to is NaN; the standard layers of the neural language model are causal whatever they are
asked for (`PeekingLanguageModel`).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jattn.attention import NeuralAttention, SoftmaxAttention
from jattn.attention.base import Attention
from jattn.attention.mechanism import Mechanism, mechanism
from jattn.interop.original.rules import Inputs, Original, Params, Settings, from_heads, layer_norm, linear, under
from jattn.models import Block, LanguageModel, VisionTransformer
from jattn.models.classifier import ClassifierHead
from jattn.models.layers import PatchEmbedding
from jattn.models.positions import sinusoidal_neural
from jattn.types import Array, AttentionMask, Float

ARGUMENTS: Mapping[str, Any] = {
    "heads": 8,
    "dim_head": None,
    "projection_dim": None,
    "dim_linear_block": 1024,
    "use_neural_attention": False,
    "num_layers": 6,
    "max_seq_len": 1024,
    "patch_size": 8,
    "emb_size": 512,
}
"""Arguments that the released classes have defaults for; that of `causal` depends on the class."""


def completed(settings: Settings, params: Params) -> Settings:
    """The settings with every argument, and with a `source`."""
    pictures = any(name.endswith("cls_token") for name in params)
    if settings["cls"] == "MHSelfAttention":
        pictures = "causal" not in settings
    project = "standard" if any("mhsa." in name for name in params) else "neural"
    causal = settings["cls"] != "TransformerBlock"
    source = f"{'vision' if pictures else 'nlp'}_{project}_attention/"
    return ARGUMENTS | {"causal": causal, "source": source} | settings


def neural_attention(settings: Settings) -> NeuralAttention:
    """`NeuralAttention`."""
    return NeuralAttention(
        settings["heads"], causal=settings["causal"], projection_dim=settings["projection_dim"], **_neural(settings)
    )


def softmax_attention(settings: Settings) -> SoftmaxAttention:
    """`MHSelfAttention`; that of the vision projects is never causal and ignores masks."""
    if _of(settings, "vision"):
        return UnmaskedAttention(settings["heads"], **_softmax(settings))
    return SoftmaxAttention(settings["heads"], causal=settings["causal"], **_softmax(settings))


class UnmaskedAttention(SoftmaxAttention):
    """Softmax attention that ignores its mask."""

    def __call__(self, x: Array, mask: AttentionMask | None = None, **options: Any) -> Array:
        """Every token of x attends to all."""
        return super().__call__(x, **options)


def attention_params(settings: Settings, params: Params) -> dict[str, Any]:
    """Of both classes; the score's network where there is one."""
    heads = (ARGUMENTS | settings)["heads"]
    kernels = params["to_qkv.weight"].T
    kernels = kernels.reshape(kernels.shape[0], -1, 3, heads).transpose(2, 0, 3, 1)
    moved = {name: {"kernel": kernels[i]} for i, name in enumerate(("query", "key", "value"))}
    moved["out"] = from_heads(params, "W_out", heads)
    if "q_proj.weight" not in params:
        return moved
    query, key = jnp.split(params["linear1.weight"], 2, axis=1)
    kernels = {
        "query": params["q_proj.weight"],
        "key": params["k_proj.weight"],
        "hidden_0_query": query,
        "hidden_0_key": key,
        "hidden_1": params["linear2.weight"],
        "output": params["linear3.weight"],
    }
    biases = {"query": "q_proj", "key": "k_proj", "hidden_0": "linear1", "hidden_1": "linear2", "output": "linear3"}
    moved["score"] = {f"{name}_kernel": kernel.T[:, None] for name, kernel in kernels.items()}
    moved["score"] |= {f"{name}_bias": params[f"{theirs}.bias"][None] for name, theirs in biases.items()}
    return moved


def call_with_mask(module: Attention | Block, variables: Any, inputs: Inputs) -> Array:
    """x, and a mask that broadcasts to (batch, heads, queries, keys), True = hidden; causal layers ignore it."""
    if "mask" not in inputs or module.causal:
        return module.apply(variables, inputs["x"])
    hidden = inputs["mask"]
    hidden = hidden.reshape((1,) * (4 - hidden.ndim) + hidden.shape)
    hidden = jnp.broadcast_to(hidden, (len(inputs["x"]), *hidden.shape[1:]))
    return module.apply(variables, inputs["x"], ~hidden)


def block(settings: Settings) -> Block:
    """`TransformerBlock`. The standard one of the neural language project is causal whatever it is asked for."""
    neural = settings["use_neural_attention"]
    causal = settings["causal"]
    if not neural:
        causal = not _of(settings, "vision") and (causal or _of(settings, "nlp_neural"))
    return Block(
        mechanism=mechanism("neural", _neural(settings)) if neural else mechanism("softmax", _softmax(settings)),
        num_heads=settings["heads"],
        mlp_dim=settings["dim_linear_block"],
        causal=causal,
        activation="relu",
        norm_position="post",
        norm_epsilon=1e-5,
    )


def block_params(settings: Settings, params: Params) -> dict[str, Any]:
    """Attention is called `attention` in the neural projects and `mhsa` in the others."""
    of_attention = under(params, "attention.") or under(params, "mhsa.")
    return {
        "attention": attention_params(settings, of_attention),
        "norm_attention": layer_norm(params, "norm_1"),
        "norm_mlp": layer_norm(params, "norm_2"),
        "mlp": {"hidden": linear(params, "linear.0"), "output": linear(params, "linear.3")},
    }


class PeekingLanguageModel(LanguageModel, kw_only=True):
    """A language model whose first layers see later tokens, as the released ones' do with causal=False."""

    peeking_layers: int

    @nn.nowrap
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """The mechanism of each layer, the first ones with an option that a model's layers share otherwise."""
        layers, n = super().mechanisms(), self.peeking_layers
        peeking = [Mechanism(layer.name, (*layer.options, ("causal", False))) for layer in layers[:n]]
        return (*peeking, *layers[n:])


def transformer(settings: Settings) -> LanguageModel | VisionTransformer:
    """`SimpleTransformer`: in the neural projects layer 0 is neural, the others are not."""
    depth, width, neural = settings["num_layers"], settings["dim"], _of(settings, "neural")
    layers = [mechanism("softmax", _softmax(settings))] * depth
    if neural:
        layers[:1] = [mechanism("neural", _neural(settings))] * min(depth, 1)
    # x + x + (sqrt(C) x + positions) in the neural language model, x + (sqrt(C) x + positions) elsewhere.
    doubled = _of(settings, "nlp_neural")
    shared = {
        "width": width,
        "depth": depth,
        "num_heads": settings["heads"],
        "mlp_dim": settings["dim_linear_block"],
        "activation": "relu",
        "norm_position": "post",
        "norm_epsilon": 1e-5,
        "final_norm": True,
        "positions": "sinusoidal_neural",
        "embedding_scale": (2 if doubled else 1) + width**0.5,
        "max_length": settings["max_seq_len"],
        "attention": tuple(layers),
    }
    classes = settings["num_unique_tokens"]
    if _of(settings, "vision"):
        return VisionTransformer(num_outputs=classes, patch_size=8, pooling="class_token", **shared)
    if settings["causal"]:
        return LanguageModel(vocab_size=classes, **shared)
    return PeekingLanguageModel(vocab_size=classes, peeking_layers=1 if neural else depth, **shared)


def transformer_params(settings: Settings, params: Params) -> dict[str, Any]:
    """Of language models and vision models."""
    layers = range((ARGUMENTS | settings)["num_layers"])
    moved = {f"block_{i}": block_params(settings, under(params, f"layers.{i}.")) for i in layers}
    moved["norm_output"] = layer_norm(params, "to_logits.0")
    output = linear(params, "to_logits.1")
    if "token_emb.weight" in params:
        return moved | {"token_embedding": {"embedding": params["token_emb.weight"]}, "output": output}
    return moved | patches_params(settings, under(params, "token_emb.")) | {"head": {"output": output}}


def call_transformer(module: LanguageModel | VisionTransformer, variables: Any, inputs: Inputs) -> Array:
    """Logits of every token: also of a picture's patches, where ours classifies the class token alone."""
    if isinstance(module, LanguageModel):
        return module.apply(variables, inputs["x"])
    features: list[Array] = []

    def keep(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        result = call(*args, **kwargs)
        if context.module.name == "norm_output":
            features.append(result)
        return result

    with nn.intercept_methods(keep):
        module.apply(variables, _channels_last(inputs["x"]))
    (tokens,) = features
    head = ClassifierHead(module.num_outputs, "class_token")
    each = head.apply({"params": variables["params"]["head"]}, tokens.reshape(-1, 1, tokens.shape[-1]))
    return each.reshape(*tokens.shape[:2], -1)


def call_wrapped(module: LanguageModel, variables: Any, inputs: Inputs) -> Array:
    """Logits of all tokens but the last, which is only a target."""
    return module.apply(variables, inputs["x"][:, :-1])


class PatchesAndClassToken(nn.Module):
    """Patches of a picture after a class token, before positions."""

    patch_size: int
    width: int

    @nn.compact
    def __call__(self, images: Float[Array, "B h w c"]) -> Float[Array, "B T C"]:
        """Tokens, the class token first."""
        patches = PatchEmbedding(self.patch_size, self.width, name="patch_embedding")(images)
        init = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
        token = self.param("class_token", init, (self.width,))
        return jnp.concatenate([jnp.broadcast_to(token, (len(images), 1, self.width)), patches], axis=1)


def patches_params(settings: Settings, params: Params) -> dict[str, Any]:
    """Of `PatchEmbedding_CNN`."""
    projection = {"kernel": params["projection.0.weight"].transpose(2, 3, 1, 0), "bias": params["projection.0.bias"]}
    return {"patch_embedding": {"projection": projection}, "class_token": params["cls_token"].reshape(-1)}


def call_patches(module: PatchesAndClassToken, variables: Any, inputs: Inputs) -> Array:
    """x (batch, channels, height, width)."""
    return module.apply(variables, _channels_last(inputs["x"]))


class ScaledWithPositions(nn.Module):
    """sqrt(C) x plus sinusoidal positions, without parameters."""

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """The tokens with their positions."""
        return x.shape[-1] ** 0.5 * x + sinusoidal_neural(jnp.arange(x.shape[1]), x.shape[2])[None]


def _of(settings: Settings, project: str) -> bool:
    return project in settings["source"].split("/")[0].lower()


def _softmax(settings: Settings) -> dict[str, Any]:
    head_dim = settings["dim"] // settings["heads"] if settings["dim_head"] is None else settings["dim_head"]
    return {"head_dim": head_dim, "use_bias": False}


def _neural(settings: Settings) -> dict[str, Any]:
    return _softmax(settings) | {"as_published": True}


def _channels_last(pictures: Array) -> Array:
    return jnp.moveaxis(pictures, 1, -1)


ORIGINALS = {
    "neural_attention": {
        "NeuralAttention": Original(neural_attention, attention_params, call_with_mask, completed),
        "MHSelfAttention": Original(softmax_attention, attention_params, call_with_mask, completed),
        "TransformerBlock": Original(block, block_params, call_with_mask, completed),
        "SimpleTransformer": Original(transformer, transformer_params, call_transformer, completed),
        "AutoRegressiveWrapper(SimpleTransformer)": Original(
            transformer,
            lambda settings, params: transformer_params(settings, under(params, "model.")),
            call_wrapped,
            completed,
        ),
        "PatchEmbedding_CNN": Original(
            lambda settings: PatchesAndClassToken(settings["patch_size"], settings["emb_size"]),
            patches_params,
            call_patches,
            completed,
        ),
        "PositionalEncoding": Original(lambda settings: ScaledWithPositions(), lambda settings, params: {}),
    }
}
