"""A model from the options of a run and the sizes of its data."""

import dataclasses
from typing import Any

from jattn.attention.mechanism import mix
from jattn.config import ModelConfig
from jattn.errors import UserError, unknown
from jattn.models.checks import check_pooling
from jattn.models.classifier import TextClassifier
from jattn.models.language_model import LanguageModel
from jattn.models.layers import num_patches
from jattn.models.transformer import Transformer
from jattn.models.vit import VisionTransformer
from jattn.task import Task

MODELS: dict[str, type[Transformer]] = {
    "language_model": LanguageModel,
    "text_classifier": TextClassifier,
    "vision_transformer": VisionTransformer,
}


def build(config: ModelConfig, task: Task, *, num_outputs: int | None = None, decode: bool = False) -> Transformer:
    """The model that `config` describes, sized for `task`.

    Args:
      num_outputs: logits of a classifier; None = one a class of the task.
      decode: a language model that generates token by token (see `Transformer`).

    Raises:
      UserError: an option is unknown or out of range, contradicts another, or does not fit the data.
    """
    if config.name not in MODELS:
        raise unknown("model", config.name, MODELS)
    model = MODELS[config.name]
    if model.kind != task.kind:
        fitting = [name for name, other in MODELS.items() if other.kind == task.kind]
        raise UserError(
            f"model {config.name!r} takes {model.kind} data, but the data set's kind is {task.kind!r}: "
            f"set model.name to {' or '.join(map(repr, fitting))} or choose another data set"
        )
    if decode and not model.causal:
        raise UserError(f"decode=True generates token by token, which model {config.name!r} cannot")
    fields = [f.name for f in dataclasses.fields(model) if f.name not in ("name", "parent")]
    _check_of_use(config, fields)
    if config.depth < 1:
        raise UserError(f"depth is {config.depth}: choose a number of at least 1")
    attention = mix(config.depth, config.attention.name, config.attention.options, config.layers, config.pattern)
    given: dict[str, Any] = {f.name: getattr(config, f.name) for f in dataclasses.fields(ModelConfig)}
    given |= {
        "attention": attention,
        "max_length": _max_length(config, task),
        "vocab_size": task.vocab_size,
        "num_outputs": task.num_classes if num_outputs is None else num_outputs,
        "decode": decode,
    }
    return model(**{name: given[name] for name in fields})


def _check_of_use(config: ModelConfig, fields: list[str]) -> None:
    """An option that was changed does something: UserError if the model does not have it."""
    for option in dataclasses.fields(ModelConfig):
        if option.name in ("name", "attention", "layers", "pattern", "initialization", *fields):
            continue
        value = getattr(config, option.name)
        if value != option.default:
            raise UserError(
                f"option {option.name}={value!r} does nothing in model {config.name!r}: leave it at {option.default!r}"
            )


def _max_length(config: ModelConfig, task: Task) -> int:
    """What the data needs, class token included, or what the user says if that is enough."""
    if task.kind == "image":
        needed = num_patches(task.image_shape[:2], config.patch_size)
        what = f"{needed} patches"
    else:
        needed = task.length
        what = f"{needed} tokens"
    if task.kind != "language":
        check_pooling(config.pooling)
        if config.pooling == "class_token":
            needed += 1
            what += " and a class token"
    if config.max_length is None:
        return needed
    if config.max_length < needed:
        raise UserError(
            f"max_length {config.max_length} is shorter than the data's longest example of {what}: "
            f"set model.max_length to at least {needed}, or leave it out"
        )
    return config.max_length
