"""The measures of a trained run on any split of its data."""

import json
from pathlib import Path
from typing import Any

import jattn
from jattn import config_json
from jattn.evaluation.measures import measures
from jattn.training.run import explained, write_atomically
from jattn.training.trained import open_trained
from jattn.training.validation import evaluate_split

RESULTS = "results.json"


def evaluate(workdir: Path | str, split: str = "test", checkpoint: str | int = "best") -> dict[str, Any]:
    """Restores a run from its folder and measures it on a split, each example or token counted once.

    The moving average of the parameters is evaluated where the run keeps one. Nothing is written: the run may
    still be training. A damaged checkpoint is reported on standard error, and the next best (or the one before)
    is used.

    Args:
      workdir: the folder of the run.
      split: train, valid or test.
      checkpoint: "best" (by the run's checkpoint.best_metric), "newest" or a step.

    Returns:
      What was evaluated (workdir, split, its examples, counted: what the means are over, which is tokens for
      language, checkpoint, step, config_hash, jattn) and `measures`.

    Raises:
      UserError: there is no run, no such split or checkpoint, the checkpoint does not fit its config, or the data
        have another vocabulary than they had.
    """
    trained = open_trained(workdir, checkpoint)
    experiment = trained.experiment
    experiment.dataset.check_split(split)
    sums = evaluate_split(experiment, trained.params, split)
    return {
        "workdir": str(workdir),
        "split": split,
        "examples": experiment.dataset.size(split),
        "counted": round(sums["loss"][1]),
        "checkpoint": checkpoint,
        "step": trained.step,
        "config_hash": config_json.config_hash(experiment.config),
        "jattn": jattn.__version__,
        "measures": measures(sums, experiment.dataset.task_of(split)),
    }


def write_results(results: dict[str, Any], workdir: Path | str) -> Path:
    """Writes results.json into the folder of the run, at once or not at all; returns its path.

    Raises:
      UserError: the folder cannot be written to.
    """
    path = Path(workdir) / RESULTS
    with explained(Path(workdir)):
        write_atomically(path, json.dumps(results, indent=2) + "\n")
    return path
