"""Curves of training: of each cell the mean over its runs and how well it is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jattn.analysis import convergence, of_dynamics
from jattn.compare.statistics import CONFIDENCE
from jattn.report.shown import Cell, Points
from jattn.training.run import read_config

POINTS = 200
"""Of a longer curve, so many points are drawn, evenly chosen, the last among them."""

RESAMPLES = 2_000
"""Of a band; a table's interval has ten times as many."""

LEFT_OUT = ("train/learning_rate", "train/voided_steps")


def of_cells(cells: Sequence[Cell], first: str = "") -> dict[str, dict[str, Any]]:
    """Quantity -> cell -> steps, mean, and low and high of a 95 % interval where there are two runs or more.

    Args:
      cells: of those whose runs are gone, `courses` are drawn.
      first: the quantity that comes first, and that courses are of; the others of validation follow, then what all
        cells have.
    """
    found = {}
    for cell in cells:
        if cell.runs:
            found[cell.name] = _of_runs(cell.runs)
        elif cell.courses:
            found[cell.name] = {first: _together(cell.courses)}
    names = dict.fromkeys(name for of in found.values() for name in of)
    rank = lambda name: (name != first, not name.startswith("valid/"), any(name not in of for of in found.values()))  # noqa: E731
    return {
        name: {cell: _drawn(*of[name]) for cell, of in found.items() if name in of} for name in sorted(names, key=rank)
    }


def of_attention(cells: Sequence[Cell]) -> dict[str, dict[str, dict[str, Any]]]:
    """Statistic -> cell -> layer -> steps and the mean over runs, of what runs logged of their attention."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        logs = [of_dynamics.logged(folder) for folder in cell.runs]
        for statistic, layers in (logs[0] if logs else {}).items():
            for layer in layers:
                curves = [log[statistic][layer] for log in logs if layer in log.get(statistic, {})]
                steps, values = _together([(of["step"], of["value"]) for of in curves])
                kept = _kept(len(steps))
                of_cell = found.setdefault(statistic, {}).setdefault(cell.name, {})
                of_cell[layer] = {"x": steps[kept], "y": values[:, kept].mean(0)}
    return found


def band(values: np.ndarray, resamples: int = RESAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end of the percentile bootstrap interval of the mean over rows: (n, P) -> (P,), (P,).

    All points of a curve see the same resamples, so that the band is as smooth as the curves are.
    """
    n = len(values)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    ends = 50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)
    low, high = np.percentile(counts @ values / n, ends, axis=0)
    return low, high


def _of_runs(folders: Sequence[Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Quantity -> steps (P,) and values (n, P)."""
    read = []
    for folder in folders:
        language = read_config(folder).model.name == "language_model"
        read.append(convergence.curves(folder, perplexity=language))
    shared = [name for name in read[0] if all(name in of for of in read)]
    wanted = [name for name in shared if name not in LEFT_OUT and not name.startswith("attention/")]
    together = {name: _together([of[name] for of in read]) for name in wanted}
    return {name: curve for name, curve in together.items() if len(curve[0])}


def _together(curves: Sequence[Points]) -> tuple[np.ndarray, np.ndarray]:
    """The steps that all curves have, (P,), and their values there, (n, P)."""
    by_step: list[Mapping[float, float]] = [dict(zip(*curve, strict=True)) for curve in curves]
    steps = sorted(set.intersection(*map(set, by_step)))
    return np.asarray(steps), np.asarray([[of[step] for step in steps] for of in by_step], np.float64)


def _kept(length: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(length, POINTS)).round().astype(int))


def _drawn(steps: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    kept = _kept(len(steps))
    steps, values = steps[kept], values[:, kept]
    drawn: dict[str, Any] = {"x": steps, "y": values.mean(0), "runs": len(values)}
    if len(values) > 1:
        drawn["low"], drawn["high"] = band(values)
    return drawn
