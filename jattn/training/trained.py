"""A run, opened to look at: its weights restored from a checkpoint, nothing written."""

import sys
from pathlib import Path
from typing import NamedTuple

from jattn.data.text.kept import kept_text
from jattn.training import setup
from jattn.training.checkpoint import Checkpoints
from jattn.training.run import check_files, read_config
from jattn.training.setup import Experiment
from jattn.training.validation import evaluated_params
from jattn.types import PyTree


class Trained(NamedTuple):
    """A run's experiment and its parameters after `step` steps: the moving average where it keeps one."""

    experiment: Experiment
    params: PyTree
    step: int


def open_trained(
    workdir: Path | str,
    checkpoint: str | int = "best",
    *,
    reads_data: bool = True,
    experiment: Experiment | None = None,
) -> Trained:
    """Restores a run from its folder, which may still be training.

    A damaged checkpoint is reported on standard error, and the next best (or the one before) is used.

    Args:
      workdir: the folder of the run.
      checkpoint: "best" (by the run's checkpoint.best_metric), "newest" or a step.
      reads_data: whether the data set's examples are wanted. Without them, the run of a model of text needs no file of
        the text: it keeps its tokenizer.
      experiment: of the same run, where it has been opened before: then it is not built again.

    Raises:
      UserError: there is no run, no such checkpoint, the checkpoint does not fit its config, or the data have another
        vocabulary than they had.
    """
    folder = Path(workdir)
    config = read_config(folder)
    if experiment is None:
        experiment = setup.build(config, None if reads_data else kept_text(config.data, folder))
        check_files(folder, experiment.dataset.kept())
    warn = lambda text: print(f"warning: {text}", file=sys.stderr)  # noqa: E731
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint, warn=warn, read_only=True)
    state, info = checkpoints.restore(experiment.parallel.abstract_state, checkpoint)
    return Trained(experiment, evaluated_params(state), info["step"])
