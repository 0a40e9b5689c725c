"""Time and scratch memory against length, log-log: a panel a comparison, a colour a mechanism, dashes for peers."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jattn import figures
from jattn.errors import UserError

Row = Mapping[str, Any]

QUANTITIES = {
    "time": ("milliseconds", 1.0, "time, ms (band: quartiles)"),
    "scratch": ("scratch_bytes", 1e6, "scratch memory, MB"),
}
"""Name of a plot -> field of a row, its unit, and the axis' label."""

_OF_LINES = ("mechanism", "implementation", "length")
_DASHES = ("-", "--", ":", "-.")


def draw(rows: Sequence[Row], folder: pathlib.Path, stem: str) -> list[pathlib.Path]:
    """Writes FOLDER/STEM-time.png and FOLDER/STEM-scratch.png.

    Raises:
      UserError: there are fewer than two lengths, and so no line.
    """
    rows = [row for row in rows if "error" not in row and "length" in row["case"]]
    if len({row["case"]["length"] for row in rows}) < 2:
        raise UserError(f"{stem} has fewer than two lengths, so there is nothing to draw: measure more with --lengths")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (field, unit, label) in QUANTITIES.items():
        paths += figures.save(_figure(rows, field, unit, label), folder, f"{stem}-{name}")
    return paths


def _figure(rows: Sequence[Row], field: str, unit: float, label: str) -> Figure:
    panels: dict[tuple, list[Row]] = {}
    for row in rows:
        panels.setdefault(tuple(str(v) for k, v in row["case"].items() if k not in _OF_LINES), []).append(row)
    colors, dashes = (list({row["case"][name]: None for row in rows}) for name in _OF_LINES[:2])
    figure = Figure(figsize=(1 + 4.5 * len(panels) + 0.07 * max(map(len, map(str, colors))), 5), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    legend = {}
    for axes, (title, members) in zip(all_axes, panels.items(), strict=True):
        lines: dict[tuple, list[Row]] = {}
        for row in members:
            lines.setdefault(tuple(row["case"][name] for name in _OF_LINES[:2]), []).append(row)
        for (mechanism, implementation), line in lines.items():
            look = {
                "color": figures.look(colors.index(mechanism) % 10)["color"],
                "linestyle": _DASHES[dashes.index(implementation) % len(_DASHES)],
            }
            legend[mechanism if len(dashes) == 1 else f"{mechanism}, {implementation}"] = _line(
                axes, line, field, unit, look
            )
        axes.set_title(", ".join(title), fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({row["case"]["length"] for row in members})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xlabel("tokens")
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel(label)
    figure.legend(legend.values(), legend.keys(), loc="outside right upper", fontsize=8, handlelength=3)
    return figure


def _line(axes: Axes, line: Sequence[Row], field: str, unit: float, look: Mapping[str, Any]) -> Any:
    """Draws a line, its quartiles too if it is of times; returns its handle."""
    line = sorted(line, key=lambda row: row["case"]["length"])
    lengths = [row["case"]["length"] for row in line]
    (handle,) = axes.plot(lengths, [row[field] / unit for row in line], marker="o", markersize=4, **look)
    if field == "milliseconds":
        low, high = zip(*(row["milliseconds_quartiles"] for row in line), strict=True)
        axes.fill_between(lengths, low, high, color=look["color"], alpha=0.15)
    return handle
