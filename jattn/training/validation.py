"""Metrics of a whole split, each example counted once."""

import contextlib
from collections.abc import Callable

import jax
import numpy as np

from jattn.data import Batch, eval_batch, num_eval_batches, prefetched
from jattn.training.metrics import ordered
from jattn.training.parallel import EvalStep
from jattn.training.setup import Experiment, eval_batch_size
from jattn.training.state import TrainState
from jattn.types import PyTree


def evaluated_params(state: TrainState) -> PyTree:
    """The parameters that evaluation uses: the moving average where the run keeps one."""
    return state.params if state.ema is None else state.ema


def evaluate_split(
    experiment: Experiment, params: PyTree, split: str, batches: int | None = None
) -> dict[str, tuple[float, float]]:
    """Sums and counts of loss, accuracy and, with more than five classes, top5_accuracy.

    Args:
      experiment: gives data and compiled step.
      params: of the model.
      split: of the data set.
      batches: how many batches to look at, from the first; None = all.
    """
    size = eval_batch_size(experiment.config)
    total = num_eval_batches(experiment.dataset, split, size)
    stop = total if batches is None else min(batches, total)
    make = lambda n: eval_batch(experiment.dataset, split, n, size)  # noqa: E731
    found = summed(experiment.parallel.eval_step, params, make, stop, experiment.config.data.prefetch)
    return {name: tuple(map(float, found[name])) for name in ordered(found)}


def summed(step: EvalStep, params: PyTree, make: Callable[[int], Batch], count: int, prefetch: int) -> PyTree:
    """The sums of an evaluation step over `make(0) .. make(count - 1)`, in float64 on the host.

    prefetch: batches that are made ahead.
    """
    total = waiting = None
    with contextlib.closing(prefetched(make, 0, count, prefetch)) as source:
        for batch in source:
            sums = step(params, batch)
            if waiting is not None:
                total = _added(total, waiting)  # of the batch before, while the device works on this one
            waiting = sums
    return _added(total, waiting)


def _added(total: PyTree, sums: PyTree) -> PyTree:
    found = jax.tree.map(np.float64, jax.device_get(sums))
    return found if total is None else jax.tree.map(np.add, total, found)
