"""What a user asked to analyse: runs, and of them a checkpoint, examples, layers and heads."""

import dataclasses
from pathlib import Path

import numpy as np

from jattn import config_json
from jattn.analysis.observe import parse_examples
from jattn.compare.grid import SAME_DATA
from jattn.errors import UserError
from jattn.training.run import read_config
from jattn.training.setup import Experiment
from jattn.training.trained import Trained, open_trained


@dataclasses.dataclass(frozen=True)
class Selection:
    """The command's options, read.

    Attributes:
      workdirs: folders of the runs.
      split: of the data.
      checkpoint: "best", "newest" or a step.
      chosen: which examples, see `parse_examples`.
      layers, heads: indices; None = all.
      timed_batches: how often the time of a batch is measured, where an analysis measures any; 0 = not at all.
      timed_lengths: in tokens, at which it measures a forward pass of one sequence.
    """

    workdirs: tuple[Path, ...]
    split: str = "valid"
    checkpoint: str | int = "best"
    chosen: str = "8"
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    timed_batches: int = 0
    timed_lengths: tuple[int, ...] = ()

    def check_same_data(self) -> None:
        """Raises UserError where runs that are to be laid over one another have other data than the first."""
        first, *others = self.workdirs
        expected = config_json.flatten(read_config(first))
        for workdir in others:
            found = config_json.flatten(read_config(workdir))
            for option in SAME_DATA:
                if found[option] != expected[option]:
                    raise UserError(
                        f"{first} and {workdir} differ in {option} ({expected[option]!r} and {found[option]!r}), so "
                        "they do not compare: give runs of the same data, or analyse each by itself"
                    )

    def open(self, workdir: Path, *, reads_data: bool = True) -> Trained:
        """A run at the checkpoint, see `open_trained`. Raises UserError if there is none."""
        return open_trained(workdir, self.checkpoint, reads_data=reads_data)

    def examples(self, experiment: Experiment) -> np.ndarray:
        """Indices of the examples. Raises UserError if they do not exist."""
        return parse_examples(self.chosen, experiment.dataset, self.split)
