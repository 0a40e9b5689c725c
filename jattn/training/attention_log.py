"""Statistics of attention while a model is trained, on the same few examples each time, by the fast path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn import core
from jattn.data import eval_batch
from jattn.models.transformer import Transformer
from jattn.training.setup import Experiment
from jattn.types import Array, Bool, Float, PyTree

EXAMPLES = 8
"""The first so many of the split that the run validates on."""

ROWS = ("entropy", "distance", "largest", "first", "diagonal", "sparsity")
"""Fields of `core.Statistics` that are averaged over queries; energies are over pairs."""


@dataclass(frozen=True)
class AttentionLog:
    """Looks at the attention of a model in evaluation. Made by `build`.

    Attributes:
      names: of the numbers, "attention/block_0/entropy" and the like: means over the heads, queries and examples.
    """

    names: tuple[str, ...]
    _compiled: Any
    _batch: Mapping[str, np.ndarray]

    def __call__(self, params: PyTree) -> dict[str, float]:
        """The numbers, by name."""
        found = jax.device_get(self._compiled(params, self._batch["inputs"], self._batch["example_id"]))
        return {name: float(found[name]) for name in self.names}


def build(experiment: Experiment) -> AttentionLog | None:
    """What `config.logging.attention_every` asks for; None if it asks for none, or no layer scores pairs of tokens."""
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    if config.logging.attention_every is None:
        return None
    split = config.validation.split
    batch = eval_batch(dataset, split, 0, min(EXAMPLES, dataset.size(split)))

    def statistics(params: PyTree, inputs: Any, ids: Any) -> dict[str, Array]:
        inputs = dataset.prepare(inputs, ids, None)
        # Weights are sown too; nobody reads them, so that the compiler leaves them out.
        _, sown = model.apply({"params": params}, inputs, deterministic=True, mutable=["intermediates"])
        found = {}
        for i in range(len(model.mechanisms())):
            of_layer = sown["intermediates"].get(f"block_{i}", {}).get("attention", {})
            if "statistics" in of_layer:
                rows = of_layer["statistics"][-1]
                values = _means(rows, real_tokens(model, inputs, rows.pairs.shape[-1]))
                found |= {f"attention/block_{i}/{name}": value for name, value in values.items()}
        return found

    compiled = jax.jit(statistics)
    params = experiment.parallel.abstract_state.params
    shapes = jax.eval_shape(compiled, params, jnp.asarray(batch["inputs"]), jnp.asarray(batch["example_id"]))
    return AttentionLog(tuple(shapes), compiled, batch) if shapes else None


def real_tokens(model: Transformer, inputs: Array | np.ndarray, length: int) -> Bool[Array, "B T"]:
    """Which of the tokens that a model's layers see are no padding; a class token is none.

    Args:
      model: of any kind.
      inputs: as it gets them.
      length: T, what the layers see, class token included.
    """
    padding = getattr(model, "padding_token", None)
    if model.kind != "text" or padding is None:
        return jnp.ones((len(inputs), length), bool)
    real = jnp.asarray(inputs) != padding
    return jnp.pad(real, ((0, 0), (length - real.shape[1], 0)), constant_values=True)


def _means(rows: core.Statistics, real: Bool[Array, "B T"]) -> dict[str, Float[Array, ""]]:
    """Means over heads and over real queries that have keys, and of the scores of their pairs:

    energy: mean magnitude; energy_spread: standard deviation of the scores, all queries, heads and examples together.
    """
    pairs = jnp.where(real[:, None], rows.pairs, 0.0)
    counted = (pairs > 0).astype(pairs.dtype)

    def mean(values: Array, weight: Array) -> Array:
        return (values * weight).sum() / jnp.maximum(weight.sum(), 1.0)

    by_row = {name: getattr(rows, name) for name in ROWS} | {"keys": jnp.exp(rows.entropy)}
    # Apart within and between queries: the square of the mean of all would take the digits of a small spread.
    within = jnp.maximum(rows.square - jnp.square(rows.mean), 0.0)
    between = jnp.square(rows.mean - mean(rows.mean, pairs))
    return {name: mean(values, counted) for name, values in by_row.items()} | {
        "energy": mean(rows.energy, pairs),
        "energy_spread": jnp.sqrt(mean(within + between, pairs)),
    }
