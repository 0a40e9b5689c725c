"""Metrics of a whole split, each example counted once."""

import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jattn.data import Batch, eval_batch, num_eval_batches, prefetched
from jattn.training.measures import measures
from jattn.training.metrics import ordered
from jattn.training.parallel import EvalStep
from jattn.training.setup import Experiment, eval_batch_size
from jattn.training.state import TrainState
from jattn.types import PyTree


def evaluated_params(state: TrainState) -> PyTree:
    """The parameters that evaluation uses: the moving average where the run keeps one."""
    return state.params if state.ema is None else state.ema


class Validation(NamedTuple):
    """What a validation has found.

    measures: by name, as `jattn.training.measures` has them.
    seconds: it took, compilation included the first time.
    seconds_per_batch: without it, the median; None of a single batch.
    """

    measures: dict[str, float]
    seconds: float
    seconds_per_batch: float | None


def validate(experiment: Experiment, params: PyTree) -> Validation:
    """The measures of as much of the split that `config.validation` names as it says."""
    options = experiment.config.validation
    ready = [time.perf_counter()]
    sums = evaluate_split(experiment, params, options.split, options.batches, ready)
    per_batch = np.diff(ready)[1:]
    return Validation(
        measures(sums, experiment.dataset.task_of(options.split)),
        ready[-1] - ready[0],
        float(np.median(per_batch)) if len(per_batch) else None,
    )


def evaluate_split(
    experiment: Experiment,
    params: PyTree,
    split: str,
    batches: int | None = None,
    ready: list[float] | None = None,
) -> dict[str, tuple[float, float]]:
    """Sums and counts of loss, accuracy and, with more than five classes, top5_accuracy.

    Args:
      experiment: gives data and compiled step.
      params: of the model.
      split: of the data set.
      batches: how many batches to look at, from the first; None = all.
      ready: gets the time (`time.perf_counter`) when each batch's sums were there.
    """
    size = eval_batch_size(experiment.config)
    total = num_eval_batches(experiment.dataset, split, size)
    stop = total if batches is None else min(batches, total)
    rows = experiment.parallel.rows(size)
    make = lambda n: eval_batch(experiment.dataset, split, n, size, rows)  # noqa: E731
    found = summed(experiment.parallel.eval_step, params, make, stop, experiment.config.data.prefetch, ready)
    return {name: tuple(map(float, found[name])) for name in ordered(found)}


def summed(
    step: EvalStep,
    params: PyTree,
    make: Callable[[int], Batch],
    count: int,
    prefetch: int,
    ready: list[float] | None = None,
) -> PyTree:
    """The sums of an evaluation step over `make(0) .. make(count - 1)`, in float64 on the host.

    prefetch: batches that are made ahead. ready: as in `evaluate_split`.
    """
    total = waiting = None

    def add() -> PyTree:
        sums = jax.tree.map(np.float64, jax.device_get(waiting))
        if ready is not None:
            ready.append(time.perf_counter())
        return sums if total is None else jax.tree.map(np.add, total, sums)

    with contextlib.closing(prefetched(make, 0, count, prefetch)) as source:
        for batch in source:
            sums = step(params, batch)
            if waiting is not None:
                total = add()  # of the batch before, while the device works on this one
            waiting = sums
    return add()
