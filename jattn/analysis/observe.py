"""The weights that a trained model gives chosen examples."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jattn.data import Dataset
from jattn.errors import UserError
from jattn.models.transformer import Transformer
from jattn.training.attention_log import real_tokens
from jattn.training.setup import Experiment
from jattn.types import PyTree

LARGEST = 2**31
"""Bytes of weights that are kept."""


class Observed(NamedTuple):
    """The weights of some layers for some examples, which all have T tokens, a class token among them.

    Attributes:
      examples: indices in the split.
      inputs: what the model was given, one row an example.
      layers: indices of the layers.
      heads: of each layer the indices of its heads.
      weights: of each layer, float32 (N, H, T, S).
      real: bool (N, T), tokens that are no padding.
      allowed: bool (N, T, S), keys that a query of this model could attend to.
      whole: whether these are all layers and heads of the model.
    """

    examples: np.ndarray
    inputs: np.ndarray
    layers: list[int]
    heads: list[list[int]]
    weights: list[np.ndarray]
    real: np.ndarray
    allowed: np.ndarray
    whole: bool


def parse_numbers(text: str | None, name: str) -> list[int] | None:
    """Indices such as "0,3,5"; None = all.

    >>> parse_numbers("0, 3", "layers")
    [0, 3]
    """
    if text is None:
        return None
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise UserError(f"--{name}={text!r} are no indices: write them as in --{name}=0,2,5")
    return list(dict.fromkeys(numbers))


def parse_examples(text: str, dataset: Dataset, split: str) -> np.ndarray:
    """Which examples of a split: "8" = the first 8 (or all, of fewer), "8," or "3,17" = those.

    Raises:
      UserError: there is no such split or example.
    """
    dataset.check_split(split)
    size = dataset.size(split)
    numbers = parse_numbers(text, "examples")
    if "," not in text:
        if numbers == [0]:
            raise UserError("--examples=0 asks for none: give their number, or indices as in --examples=0,4")
        return np.arange(min(numbers[0], size))
    if max(numbers) >= size:
        raise UserError(f"example {max(numbers)} does not exist: the {split} split has examples 0 to {size - 1}")
    return np.array(numbers)


def prepared(experiment: Experiment, split: str, examples: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The batch of these examples as stored, and its inputs as the model gets them, in evaluation."""
    batch = experiment.dataset.examples(split, examples, np.zeros_like(examples))
    inputs = experiment.dataset.prepare(jnp.asarray(batch["inputs"]), jnp.asarray(examples, jnp.int32), None)
    return batch, np.asarray(inputs)


def observe(
    experiment: Experiment,
    params: PyTree,
    split: str,
    examples: np.ndarray,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Observed:
    """Runs the model on examples, one after another, through the dense path.

    Args:
      experiment: of the run.
      params: of its model.
      split: of its data.
      examples: indices in the split.
      layers, heads: which, in any order; None = all. Layers without any of the heads are left out.

    Raises:
      UserError: there is no such layer or head, or the weights would need too much memory.
    """
    model = experiment.model
    depth = len(model.mechanisms())
    chosen = list(range(depth)) if layers is None else sorted(layers)
    for layer in chosen:
        if layer >= depth:
            raise UserError(f"layer {layer} does not exist: the model has layers 0 to {depth - 1}")
    _, inputs = prepared(experiment, split, examples)
    params = jax.device_get(params)
    compiled = _weights_of(model, tuple(chosen))
    shapes = [found.shape[1:] for found in jax.eval_shape(compiled, params, inputs[:1])]
    most = max(shape[0] for shape in shapes)
    for head in heads or ():
        if head >= most:
            raise UserError(f"head {head} does not exist: these layers have heads 0 to {most - 1}")
    own = [[h for h in range(shape[0]) if heads is None or h in heads] for shape in shapes]
    size = 4 * len(examples) * sum(len(h) * shape[1] * shape[2] for h, shape in zip(own, shapes, strict=True))
    if size > LARGEST:
        raise UserError(
            f"the weights of {len(examples)} examples take {size / 1e9:.1f} GB, more than {LARGEST / 1e9:.1f}: "
            "choose fewer with --examples, --layers or --heads"
        )
    rows = []
    for x in inputs:
        found = jax.device_get(compiled(params, x[None]))
        rows.append([np.asarray(layer[0, h], np.float32) for layer, h in zip(found, own, strict=True)])
    kept = [i for i, h in enumerate(own) if h]
    real = np.asarray(real_tokens(model, inputs, shapes[0][1]))
    allowed = np.broadcast_to(real[:, None, :], (*real.shape, real.shape[1]))
    return Observed(
        examples=examples,
        inputs=inputs,
        layers=[chosen[i] for i in kept],
        heads=[own[i] for i in kept],
        weights=[np.stack([row[i] for row in rows]) for i in kept],
        real=real,
        allowed=np.tril(allowed) if model.causal else allowed,
        whole=chosen == list(range(depth)) and all(len(h) == s[0] for h, s in zip(own, shapes, strict=True)),
    )


@functools.lru_cache(maxsize=2)
def _weights_of(model: Transformer, layers: tuple[int, ...]) -> Callable[[PyTree, Any], list[jax.Array]]:
    """The weights of these layers from parameters and inputs, compiled once for a model."""

    def weights(params: PyTree, x: Any) -> list[jax.Array]:
        _, sown = model.apply({"params": params}, x, deterministic=True, mutable=["intermediates"])
        return [sown["intermediates"][f"block_{i}"]["attention"]["weights"][-1] for i in layers]

    return jax.jit(weights)


def has_class_token(model: Transformer) -> bool:
    """Whether token 0 is one that the model put there."""
    return getattr(model, "pooling", None) == "class_token"


def texts_of_tokens(dataset: Dataset, inputs: np.ndarray) -> list[str]:
    """Each token as text, or as its number where the data are no text."""
    if dataset.fitted is None:
        return [f"{token} " for token in inputs.tolist()]
    return [dataset.fitted.decode([token]) for token in inputs.tolist()]
