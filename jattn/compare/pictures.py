"""Pictures of a comparison: its differences, its validation curves, and speed against quality."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jattn import figures
from jattn.compare.report import BASELINE, BETTER, NONE_SHOWN, NOT_TESTED, WORSE
from jattn.compare.statistics import CONFIDENCE
from jattn.compare.table import number, unit

Report = Mapping[str, Any]

LOOKS = {
    BASELINE: {"color": "black", "marker": "s", "markerfacecolor": "black"},
    BETTER: {"color": "#3f90da", "marker": "^", "markerfacecolor": "#3f90da"},
    WORSE: {"color": "#bd1f01", "marker": "v", "markerfacecolor": "#bd1f01"},
    NONE_SHOWN: {"color": "#717581", "marker": "o", "markerfacecolor": "white"},
    NOT_TESTED: {"color": "#717581", "marker": "x", "markerfacecolor": "white"},
}
"""Of verdicts: colours of the palette of `jattn.figures.look`, and markers for those who see none."""

GREY = "#717581"
INTERVAL = f"{100 * CONFIDENCE:g} % interval of the mean"
COLUMNS = 5
LOG_RATIO = 5.0
"""Speeds that differ by more are drawn on a logarithmic axis."""
PLACES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Of a label beside its point, in the order in which they are tried: between the bars first."""


def draw(folder: Path, report: Report, formats: Sequence[str]) -> list[Path]:
    """Writes the pictures of what `report.build` returned, those for which there are values; returns the paths."""
    made = {"differences": differences, "curves": curves, "speed": speed}
    drawn = {name: picture(report) for name, picture in made.items()}
    return [path for name, of in drawn.items() if of for path in figures.save(of, folder, name, formats)]


def differences(report: Report) -> Figure | None:
    """Each cell's difference to the baseline with its interval, the best on top; None where there is none."""
    _, factor = unit(report["measure"])
    rows = [c for c in report["comparisons"] if c["paired"]["difference"] is not None]
    if not rows:
        return None
    rows.sort(key=lambda c: c["paired"]["difference"], reverse=not report["higher_is_better"])
    figure = Figure(figsize=(8.4, 1.7 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=1)
    for row, found in enumerate(rows):
        paired, look = found["paired"], LOOKS[found["verdict"]]
        of_seeds = [factor * (x - y) for x, y in _pairs(report, found["cell"])]
        axes.plot(of_seeds, [row] * len(of_seeds), "|", color=look["color"], markersize=7, alpha=0.5)
        if paired["interval"]:
            axes.plot([factor * end for end in paired["interval"]], [row, row], color=look["color"], linewidth=2)
        axes.plot(factor * paired["difference"], row, linestyle="", markersize=7, **look)
        axes.text(1.01, row, _in_words(paired, factor), transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.text(
        1.01, len(rows) - 0.2, "difference, corrected p", transform=axes.get_yaxis_transform(), fontsize=8, color=GREY
    )
    axes.set_yticks(range(len(rows)), [found["cell"] for found in rows], fontsize=9)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    for row in range(0, len(rows), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="black", alpha=0.035, linewidth=0)
    better = "to the right" if report["higher_is_better"] else "to the left"
    axes.set_xlabel(f"{_named(report, report['measure'])}: difference to {report['baseline']} (better: {better})")
    _open(axes, "x")
    handles = [_handle(verdict) for verdict in LOOKS if verdict in [found["verdict"] for found in rows]]
    handles.append(Line2D([], [], linestyle="", marker="|", color=GREY, label="one seed"))
    handles.append(Line2D([], [], color=GREY, linewidth=2, label=INTERVAL))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def curves(report: Report) -> Figure | None:
    """A panel a cell: the mean over its runs in validation, all of them as a band, and the baseline's mean."""
    name = report["curve"]
    _, factor = unit(name)
    found = {cell["cell"]: _together(report, cell["cell"]) for cell in report["cells"]}
    found = {cell: (steps, factor * values) for cell, (steps, values) in found.items() if len(steps)}
    if not found:
        return None
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(1.0 + 1.65 * columns, 1.2 + 1.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in panels[len(found) :]:
        axes.axis("off")
    verdicts = _verdicts(report)
    for place, (axes, (cell, (steps, values))) in enumerate(zip(panels, found.items(), strict=False)):
        colour = LOOKS[verdicts[cell]]["color"]
        axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.25, linewidth=0)
        axes.plot(steps, values.mean(0), color=colour, linewidth=1.8)
        if cell != report["baseline"] and report["baseline"] in found:
            at, of_baseline = found[report["baseline"]]
            axes.plot(at, of_baseline.mean(0), color="black", linewidth=1, linestyle="--")
        axes.set_title(cell, fontsize=9)
        axes.tick_params(labelsize=8)
        if place + columns >= len(found):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step", fontsize=8)
        _open(axes, "both")
    figure.supylabel(_named(report, name), fontsize=9)
    handles = [Line2D([], [], color="black", linewidth=1, linestyle="--", label=f"mean of {report['baseline']}")]
    handles += [
        Line2D([], [], color=LOOKS[verdict]["color"], linewidth=1.8, label=f"{verdict} (band: all seeds)")
        for verdict in LOOKS
        if verdict in [verdicts[cell] for cell in found]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def speed(report: Report) -> Figure | None:
    """Steps a second against the measure, each with its spread; None where no cell has both."""
    measure = report["measure"]
    _, factor = unit(measure)
    found = {
        cell["cell"]: (cell["steps_per_second"], cell["steps_per_second_quartiles"], cell["measures"][measure])
        for cell in report["cells"]
        if cell["steps_per_second"] is not None and cell["measures"].get(measure, {}).get("mean") is not None
    }
    if not found:
        return None
    verdicts = _verdicts(report)
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.subplots()
    bars = np.array(
        [
            [
                (x, factor * of["mean"]),
                *zip(ends, (factor * end for end in of["interval"] or [of["mean"]] * 2), strict=True),
            ]
            for x, ends, of in found.values()
        ]
    )  # of each cell its point, the low ends, and the high ends
    if bars[:, 0, 0].max() > LOG_RATIO * bars[:, 0, 0].min():
        axes.set_xscale("log")
    for cell, (point, low, high) in zip(found, bars, strict=True):
        spread = [[[of_axis[0]], [of_axis[1]]] for of_axis in zip(point - low, high - point, strict=True)]
        axes.errorbar(
            *point, xerr=spread[0], yerr=spread[1], linestyle="", markersize=7, elinewidth=1.2, **LOOKS[verdicts[cell]]
        )
    timed = "timed in turn when the runs were done" if report["speeds"] else "of the runs as they ran"
    axes.set_xlabel(f"training steps a second, {timed} (bars: middle half)")
    better = "up" if report["higher_is_better"] else "down"
    axes.set_ylabel(f"{_named(report, measure)} (better: {better}; bars: {INTERVAL})")
    _open(axes, "both")
    axes.margins(0.08)
    handles = [_handle(verdict) for verdict in LOOKS if verdict in [verdicts[cell] for cell in found]]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.draw_without_rendering()  # places the axes, in whose pixels the labels are placed
    _label(axes, bars, list(found))
    return figure


def _label(axes: Axes, bars: np.ndarray, names: Sequence[str]) -> None:
    """Writes each name beside its point where it covers least of the points, the bars, and the names before it.

    Args:
      axes: as large as it will be.
      bars: (N, 3, 2), of each point itself, its low ends and its high ends.
      names: of the points.
    """
    size = axes.figure.dpi / 72  # pixels a point of type
    pixels = axes.transData.transform(bars.reshape(-1, 2)).reshape(bars.shape)
    within = tuple(axes.get_window_extent().extents)
    taken = []
    for (x, y), (left, bottom), (right, top) in pixels:
        taken.append((x - 5 * size, y - 5 * size, x + 5 * size, y + 5 * size))
        taken += [(left, y - size, right, y + size), (x - size, bottom, x + size, top)]
    for name, (x, y), (point, *_) in zip(names, pixels[:, 0], bars, strict=True):
        width, height = 4.7 * size * len(name), 9 * size
        boxes, far = [], []
        for reach in (5 * size, 14 * size):
            for dx, dy in PLACES:
                left = x + dx * reach - width * (1 - dx) / 2
                bottom = y + dy * reach - height * (1 - dy) / 2
                boxes.append((left, bottom, left + width, bottom + height))
                far.append(0.2 * width * height * (reach > 5 * size))
        hidden = [
            sum(_overlap(box, other) for other in taken) + 10 * (width * height - _overlap(box, within)) + cost
            for box, cost in zip(boxes, far, strict=True)
        ]
        box = boxes[int(np.argmin(hidden))]
        taken.append(box)
        offset = ((box[0] - x) / size, (box[1] - y) / size)
        axes.annotate(name, point, offset, textcoords="offset points", fontsize=8, zorder=5)


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes (left, bottom, right, top) share."""
    sides = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    return float(np.prod([max(side, 0.0) for side in sides]))


def _verdicts(report: Report) -> dict[str, str]:
    return {report["baseline"]: BASELINE} | {c["cell"]: c["verdict"] for c in report["comparisons"]}


def _pairs(report: Report, cell: str) -> list[tuple[float, float]]:
    """The measure in a cell and in the baseline, of each seed that both finished."""
    finished = {(run["cell"], run["seed"]): run for run in report["runs"] if not run["failure"]}
    both = [(finished.get((cell, seed)), finished.get((report["baseline"], seed))) for seed in report["seeds"]]
    return [(x["measures"][report["measure"]], y["measures"][report["measure"]]) for x, y in both if x and y]


def _together(report: Report, cell: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps at which all finished runs of a cell were validated, (P,), and their values there, (n, P)."""
    found = [run["curve"] for run in report["runs"] if run["cell"] == cell and run["curve"]]
    by_step = [dict(zip(curve["steps"], curve["values"], strict=True)) for curve in found]
    steps = sorted(set.intersection(*map(set, by_step))) if by_step else []
    return np.asarray(steps), np.asarray([[of[step] for step in steps] for of in by_step], np.float64)


def _in_words(paired: Mapping[str, Any], factor: float) -> str:
    p = paired["p_corrected"]
    text = number(paired["difference"], factor, sign=True).replace("-", "−")
    return text + ("" if p is None else f",  p = {p:.2g}")


def _named(report: Report, name: str) -> str:
    """A measure, or the metric of the curve, with its unit and what it is of."""
    sign, _ = unit(name)
    part, _, measure = name.rpartition("/")
    of = {"valid": "validation"}.get(part, report["split"])
    return f"{of} {measure.replace('_', ' ')}" + (f", {sign}" if sign else "")


def _handle(verdict: str) -> Line2D:
    return Line2D([], [], linestyle="", markersize=7, label=verdict, **LOOKS[verdict])


def _open(axes: Axes, grid: str) -> None:
    """Without a frame, on a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)
    axes.set_axisbelow(True)
