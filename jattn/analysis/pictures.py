"""Pictures of attention: figures of matplotlib, and tokens coloured by weight as a page."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from jattn import figures

Points = tuple[Any, Any]
"""x and y, arrays or lists of as many numbers."""

PANELS = 96
"""Of more heads, the first so many are drawn."""

NOTHING = 1e-4
"""Where all maps stay below, on one scale, they are white: what is left of a fixed pattern by rounding."""

LIGHT = (1.0, 0.47, 0.0)
"""The colour of what is attended to, over pictures and texts: orange, in parts of one."""


def heads_grid(
    maps: Sequence[np.ndarray],
    layers: Sequence[int],
    heads: Sequence[Sequence[int]],
    title: str,
    *,
    one_scale: bool = False,
) -> Figure:
    """One panel a head, one row a layer, darker = more. Rows beyond `PANELS` are cut.

    Args:
      maps: of each layer, (H, T, S), nowhere negative.
      layers, heads: their indices.
      title: of the whole.
      one_scale: False = each query (row of a map) is scaled to its own largest key: later queries of a causal map
        spread over more keys, and would be white beside the first. True = all panels have one scale, with a colour
        bar, so that heads compare.
    """
    columns = max(map(len, heads))
    rows = max(1, min(len(layers), PANELS // columns))
    T, S = maps[0].shape[1:]
    gap = -(-max(T, S) // 24)
    # One picture of all panels: axes of their own would take seconds.
    sheet = np.full((rows * (T + gap) - gap, columns * (S + gap) - gap), np.nan)
    for row in range(rows):
        for column, seen in enumerate(maps[row]):
            largest = 1.0 if one_scale else np.maximum(seen.max(-1, keepdims=True), np.finfo(np.float64).tiny)
            top, left = row * (T + gap), column * (S + gap)
            sheet[top : top + T, left : left + S] = seen / largest
    side = max(1.7, 4 / columns)
    wide = 0.6 + 0.9 * one_scale + side * columns
    figure = Figure(figsize=(wide, 0.8 + side * rows * T / S), layout="constrained")
    axes = figure.subplots()
    # Square roots, or all but the largest of many keys would be white.
    norm = PowerNorm(0.5, 0.0, max(np.nanmax(sheet), NOTHING) if one_scale else 1.0)
    image = axes.imshow(sheet, cmap=colormaps["Greys"].with_extremes(bad="#cfe3f5"), norm=norm)
    # Heads of a layer that has fewer are the first of those of the others.
    axes.set_xticks([column * (S + gap) + S / 2 - 0.5 for column in range(columns)], max(heads, key=len))
    axes.set_yticks([row * (T + gap) + T / 2 - 0.5 for row in range(rows)], layers[:rows])
    axes.tick_params(length=0)
    axes.set(xlabel="head", ylabel="layer")
    axes.spines[:].set_visible(False)
    if one_scale:
        figure.colorbar(image, ax=axes)
    hidden = "" if rows == len(layers) else f"\nthe first {rows} of {len(layers)} layers"
    of_what = "the value, on one scale" if one_scale else "a part of the query's largest key"
    scale = f"across: keys, down: queries; darkness: square root of {of_what}"
    figure.suptitle(f"{title}\n{scale if columns > 1 else scale.replace('; ', chr(10))}{hidden}", fontsize=8)
    return figure


def over_heads(
    statistics: Mapping[str, Sequence[np.ndarray]], layers: Sequence[int], heads: Sequence[Sequence[int]]
) -> Figure:
    """One panel a statistic, its value written for every layer (row) and head (column).

    Args:
      statistics: name -> of each layer the values of its heads.
      layers, heads: their indices.
    """
    columns = sorted({head for own in heads for head in own})
    figure = Figure(
        figsize=(0.8 + len(statistics) * (1.2 + 0.42 * len(columns)), 1.7 + 0.32 * len(layers)), layout="constrained"
    )
    for axes, (name, values) in zip(
        figure.subplots(1, len(statistics), squeeze=False)[0], statistics.items(), strict=True
    ):
        grid = np.full((len(layers), len(columns)), np.nan)
        for row, (own, line) in enumerate(zip(heads, values, strict=True)):
            grid[row, [columns.index(head) for head in own]] = np.asarray(line, np.float64)
        axes.set(xlabel="head", title=name)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(layers)), layers)
        image = axes.imshow(grid, aspect="auto", cmap="viridis")
        figure.colorbar(image, ax=axes)
        _write_values(axes, image, grid)
    figure.axes[0].set_ylabel("layer")
    return figure


def _write_values(axes: Axes, image: AxesImage, grid: np.ndarray) -> None:
    """Into the cells of a map in the colours of viridis, unless they are too many."""
    if grid.size > 96:
        return
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "black" if image.norm(value) > 0.6 else "white"  # viridis is bright from there on
            text = f"{value:.2g}" if abs(value) < 10 else f"{value:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=6)


def matrices(found: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[str]]) -> Figure:
    """Square matrices between 0 and 1 beside one another, such as similarities."""
    figure = Figure(figsize=(5.2 * len(found), 4.4), layout="constrained")
    for axes, (name, matrix) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        image = axes.imshow(matrix, vmin=0, vmax=1, cmap="magma")
        axes.set_title(name)
        if len(matrix) <= 32:
            axes.set_xticks(range(len(matrix)), labels[name], rotation=90 if len(matrix) > 8 else 0, fontsize=7)
            axes.set_yticks(range(len(matrix)), labels[name], fontsize=7)
        figure.colorbar(image, ax=axes)
    return figure


def lines(
    panels: Mapping[str, Mapping[str, Points]],
    x_label: str,
    *,
    log_x: int | None = None,
    log_y: Sequence[str] = (),
    same_x: bool = False,
    spreads: Mapping[str, Mapping[str, Points]] | None = None,
) -> Figure:
    """Curves, one panel a quantity.

    Args:
      panels: quantity -> label of a curve -> its x and y.
      x_label: of all panels.
      log_x: base of a logarithmic x; None = linear.
      log_y: quantities whose y is.
      same_x: all panels span the same x, where a curve of some has a value or not.
      spreads: as panels, of quantities that have a standard deviation: a thin dotted curve beside their own.
    """
    spreads = spreads or {}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    figure = Figure(figsize=(4.6 * columns, 3.3 * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in all_axes[len(panels) :]:
        axes.axis("off")
    shown = {}
    for axes, (name, curves) in zip(all_axes, panels.items(), strict=False):
        for label, (x, y) in curves.items():
            look = figures.look(labels.index(label)) | {"markersize": 3 if len(x) < 50 else 0, "linewidth": 1.2}
            (shown[label],) = axes.plot(x, y, **look)
            if label in spreads.get(name, {}):
                axes.plot(*spreads[name][label], color=look["color"], linestyle=":", linewidth=1.0)
        axes.set(xlabel=x_label, ylabel=f"{name}\n(dotted: spread)" if name in spreads else name)
        axes.grid(alpha=0.3)
        if log_x:
            axes.set_xscale("log", base=log_x)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)  # steps and positions are
        if name in log_y:
            axes.set_yscale("log")
    if same_x:
        every = [axes.get_xlim() for axes in all_axes[: len(panels)]]
        for axes in all_axes[: len(panels)]:
            axes.set_xlim(min(low for low, _ in every), max(high for _, high in every))
    if len(labels) > 1:
        figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=8)
    return figure


def visible(picture: np.ndarray) -> np.ndarray:
    """A picture (h, w, c) of any range as colours (h, w, 3) between 0 and 1."""
    low, high = picture.min(), picture.max()
    seen = (picture - low) / max(high - low, 1e-12)
    return seen if seen.shape[-1] == 3 else np.repeat(seen.mean(-1, keepdims=True), 3, -1)


def over_pictures(pictures: np.ndarray, relevance: np.ndarray, titles: Sequence[str]) -> Figure:
    """Each picture, and below it the same in grey with its patches lit by their relevance, all on one scale.

    Args:
      pictures: (N, h, w, c) of any range.
      relevance: (N, rows, columns), of each picture its sum 1.
      titles: of each picture.
    """
    light = LinearSegmentedColormap.from_list("light", [(*LIGHT, 0.0), (*LIGHT, 0.9)])
    figure = Figure(figsize=(1.1 + 1.7 * len(pictures), 3.8), layout="constrained")
    panels = figure.subplots(2, len(pictures), squeeze=False)
    for (above, below), picture, patches, title in zip(panels.T, pictures, relevance, titles, strict=True):
        seen = visible(picture)
        above.imshow(seen)
        above.set_title(title, fontsize=8)
        below.imshow(seen.mean(-1), cmap="Greys_r", vmin=-0.5, vmax=1.5)  # neither black nor white, so that light shows
        side = (-0.5, seen.shape[1] - 0.5, seen.shape[0] - 0.5, -0.5)
        lit = below.imshow(patches, cmap=light, vmin=0, vmax=relevance.max(), extent=side, interpolation="nearest")
        for axes in (above, below):
            axes.set(xticks=[], yticks=[])
    figure.colorbar(lit, ax=panels[1].tolist(), label="share")
    return figure


def coloured_tokens(title: str, passages: Sequence[tuple[str, Sequence[str], np.ndarray]]) -> str:
    """A page of texts, each token's background the stronger the larger its weight, the largest of a text at full.

    Args:
      title: of the page.
      passages: of each its heading, its tokens, and their weights; the mouse shows the weight.
    """
    parts = []
    for heading, tokens, weights in passages:
        largest = max(float(np.max(weights, initial=0.0)), 1e-12)
        spans = [
            f'<span title="{weight:.4f}" style="background:rgba(255,120,0,{weight / largest:.3f})">'
            f"{html.escape(token)}</span>"
            for token, weight in zip(tokens, map(float, weights), strict=True)
        ]
        parts.append(f"<h2>{html.escape(heading)}</h2>\n<p>{''.join(spans)}</p>")
    style = (
        "body{font-family:monospace;max-width:60em;margin:2em auto}p{white-space:pre-wrap;line-height:1.6}"
        "h2{font-size:1em}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head><body>\n<h1>{html.escape(title)}</h1>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def arms(found: Mapping[str, Mapping[str, Sequence[np.ndarray]]], totals: Mapping[str, str]) -> Figure:
    """Runs below one another: a panel a quantity, layer over head, each quantity on one scale.

    Args:
      found: run -> quantity -> of each layer the values of its heads.
      totals: run -> a line about the whole run.
    """
    quantities = list(next(iter(found.values())))
    depth = max(len(layers) for of_run in found.values() for layers in of_run.values())
    figure = Figure(figsize=(3.6 * len(quantities), (1.3 + 0.35 * depth) * len(found)), layout="constrained")
    parts = np.ravel(figure.subfigures(len(found), 1, squeeze=False))
    ranges = {q: [x for of_run in found.values() for layer in of_run[q] for x in layer] for q in quantities}
    for part, (run, of_run) in zip(parts, found.items(), strict=True):
        part.suptitle(f"{run}: {totals[run]}", fontsize=9)
        for axes, q in zip(part.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
            heads = max(map(len, of_run[q]))
            grid = np.full((len(of_run[q]), heads), np.nan)
            for row, line in enumerate(of_run[q]):
                grid[row, : len(line)] = line
            image = axes.imshow(grid, aspect="auto", vmin=0, vmax=max(ranges[q]) or 1.0, cmap="viridis")
            _write_values(axes, image, grid)
            axes.set(title=q, xlabel="head", ylabel="layer", xticks=range(heads), yticks=range(len(grid)))
            part.colorbar(image, ax=axes)
    return figure


def scatters(panels: Mapping[str, Mapping[str, Points]], x_label: str) -> Figure:
    """Points, one panel a quantity, a colour a label, the same in each; y is logarithmic where it is positive."""
    figure = Figure(figsize=(0.8 + 4.8 * len(panels), 3.8), layout="constrained")
    for axes, (name, groups) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, (label, (x, y)) in enumerate(groups.items()):
            axes.plot(x, y, label=label, markersize=4, **figures.look(index) | {"linestyle": ""})
        axes.set(xlabel=x_label, ylabel=name)
        if all(np.min(y) > 0 for _, y in groups.values()):
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
