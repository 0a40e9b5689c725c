"""Numbers over time: exact running means, csv files that can be cut back to a checkpoint, TensorBoard.

`metrics.csv` holds what the mathematics decides and is byte for byte the same however often a run is
interrupted; `timing.csv` holds what the clock and the machine decide.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat

import jax

from jattn.config import Config
from jattn.errors import UserError
from jattn.training import processes
from jattn.training.run import write_atomically
from jattn.training.wandb_log import WandbLog

Number = float | int
Pair = tuple[SupportsFloat, SupportsFloat]
"""A weighted sum and the sum of its weights, on the host."""

NAMES = ("loss", "accuracy", "top5_accuracy", "grad_norm", "learning_rate")
"""The order of columns; names that are not here follow, sorted."""


class RunningMeans:
    """Weighted sums since the last row. They go through a checkpoint's JSON without losing a bit."""

    def __init__(self, sums: Mapping[str, Sequence[Number]] | None = None):
        """Continues from what `sums` gave, or begins anew."""
        self._sums: dict[str, tuple[float, float]] = {
            name: (float(total), float(count)) for name, (total, count) in (sums or {}).items()
        }

    def add(self, pairs: Mapping[str, Pair]) -> None:
        """Adds pairs, in float64."""
        for name, (total, count) in pairs.items():
            old_total, old_count = self._sums.setdefault(name, (0.0, 0.0))
            self._sums[name] = (old_total + float(total), old_count + float(count))

    def take(self) -> dict[str, float | None]:
        """The means so far, in the order of columns, None where nothing was counted; begins a new interval."""
        means = {
            name: self._sums[name][0] / self._sums[name][1] if self._sums[name][1] else None
            for name in ordered(self._sums)
        }
        self._sums = dict.fromkeys(self._sums, (0.0, 0.0))
        return means

    def names(self) -> list[str]:
        """Names of all pairs ever added, in the order of columns."""
        return ordered(self._sums)

    def sums(self) -> dict[str, list[Number]]:
        """A JSON object from which another instance continues."""
        return {name: list(pair) for name, pair in self._sums.items()}


def ordered(names: Mapping[str, object]) -> list[str]:
    """Names of metrics in the order of columns.

    >>> ordered({"regularizer": 0, "accuracy": 0, "loss": 0})
    ['loss', 'accuracy', 'regularizer']
    """
    return [name for name in NAMES if name in names] + sorted(set(names) - set(NAMES))


class CsvLog:
    """A csv file that grows by whole rows, which begin with their step. Its columns stay the same, but that a later
    version of jattn may add some: in rows from before they are empty.

    Args:
      path: of the file; made by the first row.
      step: of the checkpoint that the run continues from: rows of later ones are cut off and will be written again.
        0 begins anew.
      position: what `position()` gave at that checkpoint.

    Attributes:
      is_short: whether the file holds less than it did at the checkpoint.
    """

    def __init__(self, path: Path, step: int = 0, position: int = 0):
        self._path = path
        self._file = path.open("ab")
        self.is_short = self._file.tell() < position
        self._file.truncate(_end(path, step))
        self._file.seek(0, os.SEEK_END)
        with path.open("rb") as file:
            self._header = file.readline()

    def append(self, row: Mapping[str, Number | None]) -> None:
        """Writes one row; floats so that they are read back exactly, None as an empty field.

        Raises:
          UserError: the file has other columns.
        """
        header = (",".join(row) + "\n").encode()
        if not self._header:
            self._file.write(header)
            self._header = header
        if header != self._header:
            old = self._header.decode().strip().split(",")
            if not set(old) <= set(row):
                raise UserError(
                    f"{self._path} has the columns {','.join(old)}, this run writes "
                    f"{header.decode().strip()}: begin anew with --restart"
                )
            self._widen(old, list(row))
        self._file.write((",".join(_format(value) for value in row.values()) + "\n").encode())
        self._file.flush()

    def _widen(self, old: Sequence[str], columns: Sequence[str]) -> None:
        """Gives the rows so far these columns, empty where they had none. Nobody sees a half of the file."""
        self._file.close()
        places = [old.index(name) if name in old else None for name in columns]
        lines = [",".join(columns)]
        for line in self._path.read_text().splitlines()[1:]:
            fields = line.split(",")
            lines.append(",".join("" if place is None else fields[place] for place in places))
        write_atomically(self._path, "".join(f"{line}\n" for line in lines))
        self._file = self._path.open("ab")
        self._header = f"{lines[0]}\n".encode()

    def position(self) -> int:
        """Bytes of the file, once they lie on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _end(path: Path, step: int) -> int:
    """Bytes of a file up to its last whole row of this step or before; 0 if there is none."""
    end = 0
    with path.open("rb") as file:
        header = file.readline()
        for line in file:
            first = line.split(b",")[0]
            if not (line.endswith(b"\n") and first.isdigit() and int(first) <= step):
                break
            end = (end or len(header)) + len(line)
    return end


def read_csv(path: Path) -> dict[str, list[float | None]]:
    """The columns of a file that `CsvLog` wrote; None where a field is empty."""
    header, *lines = path.read_text().splitlines()
    rows = [[float(field) if field else None for field in line.split(",")] for line in lines]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header.split(","))
    return {name: list(column) for name, column in zip(header.split(","), columns, strict=True)}


METRICS, TIMING = "metrics.csv", "timing.csv"


class Records:
    """Where one run writes its numbers: metrics.csv, timing.csv, TensorBoard events, Weights & Biases.

    Args:
      folder: of the run.
      config: of the run, of which `logging` says what is written.
      positions: what `positions()` gave at the checkpoint the run continues from, or empty.
      purge_step: the step after that checkpoint's; what an interrupted run wrote at this step and later is cut off the
        csv files, and TensorBoard hides it.

    Raises:
      UserError: Weights & Biases refuses.
    """

    def __init__(self, folder: Path, config: Config, positions: Mapping[str, int], purge_step: int):
        names = (METRICS, TIMING)
        self._files = {name: CsvLog(folder / name, purge_step - 1, positions.get(name, 0)) for name in names}
        self.short = [str(folder / name) for name, file in self._files.items() if file.is_short]
        self._wandb = None
        if config.logging.wandb != "off" and processes.is_first():
            self._wandb = WandbLog(folder, config, _rows(folder))
        self._events = None
        if config.logging.tensorboard:
            # It imports PyTorch where that is installed, which takes seconds.
            from tensorboardX import SummaryWriter

            # Without the suffix, two sessions that begin within one second would write to one file.
            suffix = f".from{purge_step}"
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step, filename_suffix=suffix)

    def write(
        self,
        step: int,
        metrics: Mapping[str, Number | None],
        timing: Mapping[str, Number | None],
        texts: Sequence[str] = (),
    ) -> None:
        """All that there is to say of a step.

        Args:
          step: number of the step.
          metrics: a row of metrics.csv but for the step; empty = none.
          timing: a row of timing.csv but for the step; empty = none.
          texts: samples; they go to TensorBoard and Weights & Biases.
        """
        for name, row in ((METRICS, metrics), (TIMING, timing)):
            if row:
                self._files[name].append({"step": step} | row)
        values = _tagged(metrics, timing)
        if self._events is not None:
            for tag, value in values.items():
                if value is not None and tag != "epoch":
                    self._events.add_scalar(tag, value, step)
            for number, text in enumerate(texts):
                # Four spaces make it code in Markdown, whose signs mean nothing then.
                self._events.add_text(f"sample/{number}", "    " + text.replace("\n", "\n    "), step)
        if self._wandb is not None:
            self._wandb.send(step, values | {f"sample/{number}": text for number, text in enumerate(texts)})

    def positions(self) -> dict[str, int]:
        """Bytes of each file, for a checkpoint."""
        return {name: file.position() for name, file in self._files.items()}

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            stopped = isinstance(error, SystemExit | KeyboardInterrupt)  # saved, to be continued
            self._wandb.finish(failed=error is not None and not stopped)


def _tagged(metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    """Both rows of a step under the names that TensorBoard and Weights & Biases show."""
    return dict(metrics) | {f"timing/{name}": value for name, value in timing.items()}


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """What the csv files of a run hold, step by step."""
    found: dict[float, dict[str, Any]] = {}
    for name in (METRICS, TIMING):
        columns = read_csv(folder / name) if (folder / name).stat().st_size else {"step": []}
        steps = columns.pop("step")
        for row, step in enumerate(steps):
            values = {column: values[row] for column, values in columns.items()}
            pair = (values, {}) if name == METRICS else ({}, values)
            found[step] = found.get(step, {"step": step}) | _tagged(*pair)
    for step in sorted(found):
        yield found[step]


def memory_in_use() -> int:
    """Largest number of bytes in use so far: of the first device where it counts, else of this process."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    import resource  # not on every platform

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _format(value: Number | None) -> str:
    return "" if value is None else repr(value)
