"""What a run's log says about how it converged."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jattn.errors import UserError
from jattn.training.metrics import read_csv
from jattn.training.run import read_config

METRICS = "metrics.csv"

LATE = 0.25
"""The part of a curve, at its end, whose level and slope are reported."""

Curve = tuple[list[float], list[float]]
"""Steps and values."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """One curve in numbers.

    Attributes:
      first, last, best: of its values; best is the greatest accuracy, of all else the least, of
        those that are finite.
      best_step: at which it was so.
      level, spread: mean and standard deviation over the last `LATE` of its steps.
      slope: there, per 1,000 steps, by least squares; None with fewer than 3 values.
      halfway: the first step by which half of the way from the first value to the best was gone.
    """

    first: float
    last: float
    best: float
    best_step: int
    level: float
    spread: float
    slope: float | None
    halfway: int


def curves(workdir: Path, *, perplexity: bool) -> dict[str, Curve]:
    """Every column of metrics.csv that has values, by name; with `perplexity`, that of each loss too.

    Raises:
      UserError: the folder holds no run, or it has not logged anything yet.
    """
    read_config(workdir)
    path = workdir / METRICS
    columns = read_csv(path) if path.exists() and path.stat().st_size else {}
    found = {}
    for name, values in columns.items():
        points = [(s, v) for s, v in zip(columns["step"], values, strict=True) if v is not None]
        if name not in ("step", "epoch") and points:
            steps, values = map(list, zip(*points, strict=True))
            found[name] = (steps, values)
            if perplexity and name.endswith("/loss"):
                found[name.replace("loss", "perplexity")] = (steps, [math.exp(min(v, 700.0)) for v in values])
    if not found:
        raise UserError(f"{path} holds no numbers yet: let the run train for longer than its logging.every")
    return found


def summary(curve: Curve, *, higher: bool = False) -> Summary:
    """One curve in numbers; `higher`: more is better."""
    steps, values = np.asarray(curve[0], np.float64), np.asarray(curve[1], np.float64)
    late = steps >= steps[-1] - LATE * (steps[-1] - steps[0])
    # A run that diverged was best before it did.
    known = np.where(np.isfinite(values), values, -np.inf if higher else np.inf)
    best = int(np.argmax(known) if higher else np.argmin(known))
    gone = np.abs(values - values[0]) >= 0.5 * np.abs(values[best] - values[0])
    towards = (values - values[0]) * (values[best] - values[0]) >= 0
    return Summary(
        first=float(values[0]),
        last=float(values[-1]),
        best=float(values[best]),
        best_step=int(steps[best]),
        level=float(values[late].mean()),
        spread=float(values[late].std()),
        slope=float(1000 * np.polyfit(steps[late], values[late], 1)[0]) if late.sum() >= 3 else None,
        halfway=int(steps[np.argmax(gone & towards)]),
    )


def names(workdirs: Sequence[Path]) -> dict[Path, str]:
    """A short name for each run: the end of its path that tells it from the others."""
    parts = [path.resolve().parts for path in workdirs]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        ends = ["/".join(p[-count:]) for p in parts]
        if len(set(ends)) == len(ends):
            return dict(zip(workdirs, ends, strict=True))
    raise UserError("--workdir names the same run twice")


def laid_over(runs: Mapping[str, Mapping[str, Curve]]) -> dict[str, dict[str, Curve]]:
    """Quantity -> run -> its curve, from run -> quantity -> curve; those of all runs first."""
    quantities = dict.fromkeys(name for of_run in runs.values() for name in of_run)
    shared = [name for name in quantities if all(name in of_run for of_run in runs.values())]
    order = [*shared, *(name for name in quantities if name not in shared)]
    return {name: {run: of_run[name] for run, of_run in runs.items() if name in of_run} for name in order}
