"""What is remembered of the steps between two checkpoints: running means, rows, voided steps, time."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jattn.training.metrics import Records, RunningMeans, memory_in_use
from jattn.training.progress import Console
from jattn.training.samples import Sample
from jattn.training.setup import Experiment, eval_batch_size
from jattn.training.step import name_nonfinite
from jattn.training.validation import Validation

SHOWN = ("loss", "accuracy")
SHOWN_VALID = ("loss", "accuracy", "top5_accuracy", "perplexity", "bits_per_byte")
"""The metrics of training and of validation that a line of the console has room for."""


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient."""


class Journal:
    """Reads the metrics of every step, and writes the rows that are due.

    Args:
      experiment: what is run.
      records: where rows go.
      console: where the user is told.
      remembered: what `remember()` gave at the checkpoint the run continues from, or empty.
      attention_names: of the numbers that looks at attention give.
    """

    def __init__(
        self,
        experiment: Experiment,
        records: Records,
        console: Console,
        remembered: Mapping[str, Any],
        attention_names: Sequence[str] = (),
    ):
        self._plan, self._config = experiment.plan, experiment.config
        self._params = experiment.parallel.abstract_state.params
        self._valid_names = experiment.validation_metrics
        self._attention_names = attention_names
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

    def row(
        self,
        step: int,
        valid: Validation | None,
        texts: Sequence[Sample] = (),
        attention: Mapping[str, float] | None = None,
    ) -> None:
        """Writes the row of a step, if training metrics are due or `valid` or `attention` has been measured, and
        samples of text."""
        logged = self._plan.due(step, self._plan.log_every)
        if logged or valid is not None or attention is not None:
            names = self._means.names()
            means = self._means.take() if logged else dict.fromkeys(names)
            row = {"epoch": step / self._plan.steps_per_epoch} | {f"train/{name}": means[name] for name in names}
            row["train/voided_steps"] = self._voided if logged else None
            found = {} if valid is None else valid.measures
            row |= {f"valid/{name}": found.get(name) for name in self._valid_names}
            row |= {name: None if attention is None else attention[name] for name in self._attention_names}
            self.last |= {name: value for name, value in ({"step": step} | row).items() if value is not None}
            rate = self._rate(step) if logged else None
            self._records.write(step, row, self._timing(rate, valid), [sample.shown for sample in texts])
            if logged:
                self._voided = 0
                self._show(step, means, rate)
        elif texts:
            self._records.write(step, {}, {}, [sample.shown for sample in texts])
        if valid is not None:
            numbers = "  ".join(f"valid/{name} {found[name]:.4g}" for name in SHOWN_VALID if name in found)
            self._console.say(f"step {step}/{self._plan.total}  {numbers}")
        for number, sample in enumerate(texts):
            self._console.say(f"step {step}/{self._plan.total}  sample {number}: {sample}")
        if valid is not None or texts or attention is not None:
            self._mark = (step, time.perf_counter())  # speed is that of training alone

    def _rate(self, step: int) -> float | None:
        """Steps a second since the last mark, which is set anew."""
        rate = None
        if self._mark is not None and self._mark[0] < step:
            rate = (step - self._mark[0]) / (self._done - self._mark[1])
        self._mark = (step, self._done)
        return rate

    def _timing(self, rate: float | None, valid: Validation | None) -> dict[str, float | int | None]:
        """A row of timing.csv; inference is the forward pass and the loss of a batch of validation."""
        per_batch = None if valid is None else valid.seconds_per_batch
        return {
            "seconds": self.seconds(),
            "steps_per_second": rate,
            "examples_per_second": None if rate is None else rate * self._config.data.batch_size,
            "peak_memory_bytes": memory_in_use(),
            "validation_seconds": None if valid is None else valid.seconds,
            "inference_seconds_per_batch": per_batch,
            "inference_seconds_per_example": None if per_batch is None else per_batch / eval_batch_size(self._config),
        }

    def _show(self, step: int, means: Mapping[str, float | None], rate: float | None) -> None:
        numbers = "  ".join(f"{name} {means[name]:.4g}" for name in SHOWN if means[name] is not None)
        left = None
        if rate is not None:
            numbers += f"  {rate:.4g} steps/s"
            left = (self._plan.total - step) / rate
        self._console.training(step, self._plan.total, numbers, left)

    def seconds(self) -> float:
        """Spent on training, sessions before this one included."""
        return self._seconds_before + time.perf_counter() - self._start
