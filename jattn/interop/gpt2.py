"""GPT-2 in Hugging Face's layout as a `LanguageModel`.

A. Radford, J. Wu, R. Child, D. Luan, D. Amodei and I. Sutskever, Language Models are Unsupervised Multitask Learners,
2019. Names are those of `transformers.GPT2LMHeadModel`'s state_dict, or of `GPT2Model`'s, which the files on the hub
have. Its linear maps are of the class Conv1D: weights (in, out), x W + b.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jattn.config import DataConfig, ModelConfig
from jattn.data.text import stored
from jattn.errors import UserError
from jattn.interop import tensors
from jattn.interop.foreign import Foreign, Names, check_heads
from jattn.interop.original.rules import layer_norm
from jattn.interop.tensors import Tensors
from jattn.task import Task
from jattn.types import Array

BLOCK = Names("h.{}.", qkv="attn.c_attn", out="attn.c_proj", norms=("ln_1", "ln_2"), mlp=("mlp.c_fc", "mlp.c_proj"))
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Their name -> ours."""

UNCHANGED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
"""Settings that a model of ours has no other value for."""

HUB_TOKENIZER = "openai-community/gpt2"


def read(place: Path, num_heads: int | None = None) -> Foreign:
    """The model in a .safetensors file or a folder; `config.json` and the tokenizer beside it are read too.

    Args:
      place: of the tensors.
      num_heads: None = as `config.json` says, else one for each 64 features, as in all four published sizes.

    Raises:
      UserError: it is another model, or one that ours cannot express.
    """
    settings = tensors.settings(place)
    found = _named_as_on_the_hub(tensors.read(place))
    depth = BLOCK.depth(found)
    expected = ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias", *BLOCK.tensors(max(depth, 1))]
    untied = "lm_head.weight" in found and not jnp.array_equal(found["lm_head.weight"], found.get("wte.weight", 0))
    if not untied:
        found.pop("lm_head.weight", None)
    tensors.check_names(found, expected + ["lm_head.weight"] * untied, "GPT-2", place)
    for name, value in UNCHANGED.items():
        if settings.get(name, value) != value:
            raise UserError(f"{place} has {name}={settings[name]}, which a LanguageModel has no option for")
    activation = settings.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise UserError(f"{place} has activation_function={activation!r}: jattn has {', '.join(ACTIVATIONS)}")
    vocab_size, width = found["wte.weight"].shape
    length = len(found["wpe.weight"])
    heads = num_heads or settings.get("n_head") or width // 64
    check_heads(heads, width)
    files, tokenizer, notes = _tokenizer(place, vocab_size)
    if not (num_heads or "n_head" in settings):
        notes.append(f"without a config.json, {heads} heads of 64 features, as in the published models: --num-heads")
    return Foreign(
        title="GPT-2",
        model=ModelConfig(
            name="language_model",
            width=width,
            depth=depth,
            num_heads=heads,
            mlp_dim=found["h.0.mlp.c_fc.bias"].shape[0],
            activation=ACTIVATIONS[activation],
            norm_epsilon=float(settings.get("layer_norm_epsilon", 1e-5)),
            tie_embeddings=not untied,
            max_length=length,
        ),
        task=Task(kind="language", vocab_size=vocab_size, length=length),
        data=DataConfig(
            name="text", source="folder", tokenizer=tokenizer, options=f"sequence_length={length}", batch_size=8
        ),
        params=_params(found, heads, untied),
        files=files,
        notes=notes,
    )


def _named_as_on_the_hub(found: Tensors) -> dict[str, Array]:
    """Without the prefix of the class with a head, and without the constants that older files hold: causal masks."""
    names = {name: name.removeprefix("transformer.") for name in found}
    return {
        names[name]: x for name, x in found.items() if not names[name].endswith((".attn.bias", ".attn.masked_bias"))
    }


def _params(found: Tensors, heads: int, untied: bool) -> dict[str, Any]:
    linear = {name: x.T if ".c_" in name else x for name, x in found.items()}
    params = {
        "token_embedding": {"embedding": found["wte.weight"]},
        "position_embedding": {"embedding": found["wpe.weight"]},
        **BLOCK.blocks(linear, heads),
        "norm_output": layer_norm(found, "ln_f"),
    }
    if untied:  # theirs has no bias
        kernel = found["lm_head.weight"].T
        params["output"] = {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])}
    return params


def _tokenizer(place: Path, vocab_size: int) -> tuple[dict[str, str], str, list[str]]:
    """What is kept beside the parameters, `data.tokenizer`, and what to tell the user."""
    folder = place if place.is_dir() else place.parent
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        tokenizer = stored.load(str(folder), ())
        if tokenizer.vocab_size == vocab_size:
            return {"tokenizer.json": tokenizer.to_json()}, "tokenizer.json", []
        note = f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, the model {vocab_size}: it is left out"
        return {}, HUB_TOKENIZER, [note]
    note = (
        f"no tokenizer in {folder}: data.tokenizer, unless --set says another, is the hub's (`hf download "
        f"{HUB_TOKENIZER} tokenizer.json`)"
    )
    return {}, HUB_TOKENIZER, [note]
