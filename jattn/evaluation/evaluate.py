"""The measures of a trained run on any split of its data."""

import json
import sys
from pathlib import Path
from typing import Any

import jattn
from jattn import config_json
from jattn.data import eval_batch, num_eval_batches
from jattn.errors import UserError
from jattn.evaluation.details import calibration, classes, detailed
from jattn.evaluation.spans import spans
from jattn.evaluation.speed import speed
from jattn.evaluation.windows import windows_of
from jattn.training.measures import measures
from jattn.training.metrics import ordered
from jattn.training.run import explained, write_atomically
from jattn.training.setup import eval_batch_size
from jattn.training.trained import open_trained
from jattn.training.validation import summed

RESULTS = "results.json"


def evaluate(
    workdir: Path | str,
    split: str = "test",
    checkpoint: str | int = "best",
    *,
    window: int | None = None,
    stride: int | None = None,
    average: str = "tokens",
    bins: int = 15,
    timed_batches: int = 0,
) -> dict[str, Any]:
    """Restores a run from its folder and measures it on a split, each example or token counted once.

    The moving average of the parameters is evaluated where the run keeps one. Nothing is written: the run may
    still be training. A damaged checkpoint is reported on standard error, and the next best (or the one before)
    is used.

    Args:
      workdir: the folder of the run.
      split: train, valid or test.
      checkpoint: "best" (by the run's checkpoint.best_metric), "newest" or a step.
      window, stride, average: of a running text, see `jattn.evaluation.windows`.
      bins: of the calibration.
      timed_batches: how often the time of a batch is measured; 0 = not at all.

    Returns:
      What was evaluated (workdir, split, its examples, counted: what the means are over, which is tokens for
      language, checkpoint, step, config_hash, jattn) and `measures`; and where there is such a thing `windows`,
      `calibration`, `classes`, `spans` and `speed`, as the modules of this package say.

    Raises:
      UserError: there is no run, no such split or checkpoint, the checkpoint does not fit its config, the data have
        another vocabulary than they had, or a number is out of range.
    """
    if bins < 1 or timed_batches < 0:
        raise UserError(f"bins={bins} must be at least 1, and timed_batches={timed_batches} at least 0")
    experiment, params, step = open_trained(workdir, checkpoint)
    config, dataset, task = experiment.config, experiment.dataset, experiment.dataset.task
    dataset.check_split(split)
    windows = windows_of(dataset, experiment.model, split, window, stride, average)
    size = eval_batch_size(config)
    if windows is None:
        make, count = lambda n: eval_batch(dataset, split, n, size), num_eval_batches(dataset, split, size)
    else:
        tokens = dataset.tokens(split)
        make, count = lambda n: windows.batch(tokens, n, size), -(-windows.count(len(tokens) - 1) // size)
    eval_step = experiment.parallel.compile_eval(detailed(config.loss, task, bins))
    sums = summed(eval_step, params, make, count, config.data.prefetch)
    for text in dataset.complaints(final=True):
        print(f"warning: {text}", file=sys.stderr)
    means = {name: tuple(map(float, sums["means"][name])) for name in ordered(sums["means"])}
    results: dict[str, Any] = {
        "workdir": str(workdir),
        "split": split,
        "examples": dataset.size(split),
        "counted": round(means["loss"][1]),
        "checkpoint": checkpoint,
        "step": step,
        "config_hash": config_json.config_hash(config),
        "jattn": jattn.__version__,
        "measures": measures(means, dataset.task_of(split)),
    }
    if windows is not None:
        results["windows"] = {"length": windows.length, "stride": windows.stride, "average": windows.average}
    if "reliability" in sums:
        results["calibration"] = calibration(sums["reliability"])
    if "confusion" in sums:
        results["classes"] = classes(sums["confusion"])
    if found := spans(experiment.model, params, experiment.model.max_length):
        results["spans"] = found
    if timed_batches:
        results["speed"] = speed(eval_step, params, make(0), task, timed_batches)
    return results


def write_results(results: dict[str, Any], workdir: Path | str) -> Path:
    """Writes results.json into the folder of the run, at once or not at all; returns its path.

    Raises:
      UserError: the folder cannot be written to.
    """
    path = Path(workdir) / RESULTS
    with explained(Path(workdir)):
        write_atomically(path, json.dumps(results, indent=2) + "\n")
    return path
