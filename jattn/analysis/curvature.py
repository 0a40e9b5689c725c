"""Energies of attention beside the gradients of their blocks, example by example."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jattn.analysis.observe import prepared
from jattn.errors import UserError
from jattn.models.transformer import Transformer
from jattn.training import losses
from jattn.training.setup import Experiment
from jattn.types import PyTree

FEWEST = 3
"""Pairs of numbers that have a correlation."""


class Measured(NamedTuple):
    """Of N examples and L blocks.

    Attributes:
      energy: (N, L), mean |score| of each block's attention.
      squared_gradient: (N, L), squared length of the gradient of the example's loss in the block's parameters.
      mean_gradient: (L,), length of the gradient of the mean loss.
      params: (L,), numbers of parameters.
    """

    energy: np.ndarray
    squared_gradient: np.ndarray
    mean_gradient: np.ndarray
    params: np.ndarray

    @property
    def fisher(self) -> np.ndarray:
        """The trace of each block of the empirical Fisher matrix, E[g g^T] over examples: (L,)."""
        return self.squared_gradient.mean(0)


def measure(experiment: Experiment, params: PyTree, split: str, examples: np.ndarray) -> Measured:
    """Energies and gradients in evaluation, one example after another; the loss is the mean over its tokens.

    Raises:
      UserError: a layer's mechanism scores no pairs.
    """
    model, loss = experiment.model, experiment.config.loss
    for i, mechanism in enumerate(model.mechanisms()):
        if mechanism.lacks("energies"):
            raise UserError(f"layer {i} is {mechanism}, which has no energies: it scores no pairs of tokens")
    blocks = [f"block_{i}" for i in range(len(model.mechanisms()))]
    batch, inputs = prepared(experiment, split, examples)
    params = jax.device_get(params)

    gradient = _gradient(model, loss.name, loss.label_smoothing)
    energies, squares, total = [], [], None
    for n, x in enumerate(inputs):
        rows = (jnp.asarray(batch[name][n : n + 1]) for name in ("targets", "weight"))
        found, energy = jax.device_get(gradient(params, x[None], *rows))
        energies.append(energy)
        squares.append([_squared(found[block]) for block in blocks])
        total = found if total is None else jax.tree.map(np.add, total, found)
    return Measured(
        energy=np.array(energies, np.float64),
        squared_gradient=np.array(squares),
        mean_gradient=np.sqrt([_squared(total[block]) for block in blocks]) / len(inputs),
        params=np.array([sum(leaf.size for leaf in jax.tree.leaves(params[block])) for block in blocks]),
    )


@functools.lru_cache(maxsize=2)
def _gradient(model: Transformer, loss: str, label_smoothing: float) -> Callable[..., tuple[PyTree, list]]:
    """The gradient of an example's loss and the energies of its blocks, compiled once for a model."""

    def objective(params: PyTree, x: Any, targets: Any, weight: Any) -> tuple[jax.Array, list]:
        logits, sown = model.apply({"params": params}, x, deterministic=True, mutable=["energies"])
        values = losses.LOSSES[loss](logits.astype(jnp.float32), targets, label_smoothing)
        total, count = losses.weighted(values, weight)
        blocks = [sown["energies"][f"block_{i}"] for i in range(len(model.mechanisms()))]
        energies = [jnp.mean(jnp.stack(jax.tree.leaves(block))) for block in blocks]
        return total / jnp.maximum(count, 1e-12), energies

    return jax.jit(jax.grad(objective, has_aux=True))


def correlations(x: np.ndarray, y: np.ndarray) -> dict[str, float | int | None]:
    """Pearson's and Spearman's, with their p-values; None with too few values or a constant."""
    x, y = np.ravel(x), np.ravel(y)
    known = {"n": len(x), "pearson": None, "pearson_p": None, "spearman": None, "spearman_p": None}
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return known
    for name, found in (("pearson", stats.pearsonr(x, y)), ("spearman", stats.spearmanr(x, y))):
        known |= {name: float(found.statistic), f"{name}_p": float(found.pvalue)}
    return known


def _squared(tree: PyTree) -> float:
    return float(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree)))
