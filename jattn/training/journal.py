"""What is remembered of the steps between two checkpoints: running means, rows, voided steps, time."""

import time
from collections.abc import Mapping
from typing import Any

import jax

from jattn.training.metrics import Records, RunningMeans, memory_in_use
from jattn.training.progress import Console
from jattn.training.setup import Experiment
from jattn.training.step import name_nonfinite

SHOWN = ("loss", "accuracy")
"""The training metrics that a line of the console has room for."""


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient."""


class Journal:
    """Reads the metrics of every step, and writes the rows that are due.

    Args:
      experiment: what is run.
      records: where rows go.
      console: where the user is told.
      remembered: what `remember()` gave at the checkpoint the run continues from, or empty.
    """

    def __init__(self, experiment: Experiment, records: Records, console: Console, remembered: Mapping[str, Any]):
        self._plan, self._config = experiment.plan, experiment.config
        self._params = experiment.parallel.abstract_state.params
        self._valid_names = experiment.validation_metrics
        self._records, self._console = records, console
        self._means = RunningMeans(remembered["sums"] if remembered else None)
        self._voided_in_a_row = remembered["voided_in_a_row"] if remembered else 0
        self._voided = remembered["voided"] if remembered else 0
        self._seconds_before = remembered["seconds"] if remembered else 0.0
        self.last: dict[str, Any] = dict(remembered["last"]) if remembered else {}
        self._start = time.perf_counter()
        self._mark: tuple[int, float] | None = None  # a step and when it had been done, training resuming
        self._done = self._start  # when the step last read was found done

    def remember(self) -> dict[str, Any]:
        """A JSON object from which another process continues."""
        return {
            "sums": self._means.sums(),
            "voided_in_a_row": self._voided_in_a_row,
            "voided": self._voided,
            "seconds": self.seconds(),
            "last": self.last,
        }

    def read(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes in the metrics of a step, which waits for the device to finish it.

        Raises:
          NonFiniteError: it was one too many that had to be left out.
        """
        pairs = jax.device_get(dict(metrics))
        nonfinite = pairs.pop("nonfinite")
        self._means.add(pairs)
        self._done = time.perf_counter()
        if self._mark is None:
            self._mark = (step, self._done)  # the first step was compiled first
        self._console.step(step)
        if not nonfinite.any():
            self._voided_in_a_row = 0
            return
        self._voided += 1
        self._voided_in_a_row += 1
        what = f"batch {step - 1} gives a non-finite value in {name_nonfinite(nonfinite, self._params)}"
        self._console.warn(f"step {step} has been left out: {what}")
        if self._voided_in_a_row >= self._config.max_nonfinite_steps:
            raise NonFiniteError(
                f"stopped at step {step}: {self._voided_in_a_row} steps in a row were not finite, the last "
                f"because {what}; the last checkpoint is intact: lower optim.learning_rate, set "
                "optim.clip_norm, or allow more with max_nonfinite_steps"
            )

    def row(self, step: int, valid: Mapping[str, float] | None) -> None:
        """Writes the row of a step, if training metrics are due or `valid` has been measured."""
        logged = self._plan.due(step, self._plan.log_every)
        if not logged and valid is None:
            return
        names = self._means.names()
        means = self._means.take() if logged else dict.fromkeys(names)
        row = {"step": step, "epoch": step / self._plan.steps_per_epoch}
        row |= {f"train/{name}": means[name] for name in names}
        row["train/voided_steps"] = self._voided if logged else None
        row |= {name: valid[name] if valid else None for name in map("valid/{}".format, self._valid_names)}
        self.last |= {name: value for name, value in row.items() if value is not None}
        self._records.metrics(row)
        if logged:
            self._voided = 0
            self._time(step, means)
        if valid is not None:
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in valid.items())
            self._console.say(f"step {step}/{self._plan.total}  {numbers}")
            self._mark = (step, time.perf_counter())  # speed is that of training alone

    def _time(self, step: int, means: Mapping[str, float | None]) -> None:
        rate = None
        if self._mark is not None and self._mark[0] < step:
            rate = (step - self._mark[0]) / (self._done - self._mark[1])
        self._mark = (step, self._done)
        self._records.timing(
            {
                "step": step,
                "seconds": self.seconds(),
                "steps_per_second": rate,
                "examples_per_second": None if rate is None else rate * self._config.data.batch_size,
                "peak_memory_bytes": memory_in_use(),
            }
        )
        numbers = "  ".join(f"{name} {means[name]:.4g}" for name in SHOWN if means[name] is not None)
        left = None
        if rate is not None:
            numbers += f"  {rate:.4g} steps/s"
            left = (self._plan.total - step) / rate
        self._console.training(step, self._plan.total, numbers, left)

    def seconds(self) -> float:
        """Spent on training, sessions before this one included."""
        return self._seconds_before + time.perf_counter() - self._start
