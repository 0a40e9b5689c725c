"""Metrics of a whole split, each example counted once."""

import contextlib

import jax

from jattn.data import eval_batch, num_eval_batches, prefetched
from jattn.training.metrics import RunningMeans, ordered
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
    sums = RunningMeans()
    waiting = None
    make = lambda n: eval_batch(experiment.dataset, split, n, size)  # noqa: E731
    with contextlib.closing(prefetched(make, 0, stop, experiment.config.data.prefetch)) as source:
        for batch in source:
            metrics = experiment.parallel.eval_step(params, batch)
            if waiting is not None:
                sums.add(jax.device_get(waiting))  # of the batch before, while the device works on this one
            waiting = metrics
    sums.add(jax.device_get(waiting))
    found = sums.sums()
    return {name: tuple(found[name]) for name in ordered(found)}
