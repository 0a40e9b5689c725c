"""What the programs of a page draw, as one JSON object."""

from collections.abc import Callable, Mapping
from typing import Any

from jattn.analysis.selection import Selection
from jattn.compare.table import unit
from jattn.errors import UserError
from jattn.report import attention, curves
from jattn.report.shown import Cell, Comparison, Shown
from jattn.report.words import named


def build(shown: Shown) -> dict[str, Any]:
    """All but the attention, which has to be computed.

    Returns:
      cells: their names in order; of a comparison its baseline, its measure, and whether more of it is better.
      curves: of each quantity its title, the factor of its unit, and see `curves.of_cells`.
      differences, points: of each cell of a comparison what is drawn of it, if it has a value; empty for runs.
      dynamics: see `curves.of_attention`.
      attention, examples: empty; see `with_attention`.
    """
    found = shown.comparison
    return {
        "cells": [cell.name for cell in shown.cells],
        "baseline": found["baseline"] if found else None,
        "measure": named(found["measure"]) if found else None,
        "higher": bool(found) and found["higher_is_better"],
        "curves": [
            {"title": named(name), "factor": unit(name)[1], "cells": of}
            for name, of in curves.of_cells(shown.cells, found["curve"] if found else "").items()
        ],
        "differences": _differences(found) if found else [],
        "points": _points(found) if found else [],
        "dynamics": curves.of_attention(shown.cells),
        "attention": [],
        "examples": {},
    }


def with_attention(
    drawn: dict[str, Any],
    shown: Shown,
    selection: Selection,
    seed: int | None,
    tokens: int,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Adds the attention of one run of each cell; returns the packed maps by cell.

    Args:
      drawn: of `build`, added to.
      shown: whose runs.
      selection: see `attention.of_run`.
      seed: whose run of each cell; None = the first that has finished.
      tokens: see `attention.of_run`.
      say: is told of each run.

    Raises:
      UserError: a run cannot be opened, or there is no run of the seed.
    """
    there = [cell for cell in shown.cells if cell.runs]
    maps = {}
    for done, cell in enumerate(there, 1):
        place = _place(cell, seed)
        say(f"[{done}/{len(there)}] attention of {cell.runs[place]}")
        own, examples = attention.of_run(cell.runs[place], selection, tokens, attention.BYTES // len(there))
        maps[cell.name] = own.pop("maps")
        key = attention.key_of(examples)
        drawn["examples"][key] = examples
        drawn["attention"].append({"cell": cell.name, "seed": cell.seeds[place], "examples": key, **own})
    return maps


def _place(cell: Cell, seed: int | None) -> int:
    if seed is None:
        return 0
    if seed not in cell.seeds:
        raise UserError(f"--seed={seed}: {cell.name} has finished runs of seeds {', '.join(map(str, cell.seeds))} only")
    return cell.seeds.index(seed)


def _differences(found: Comparison) -> list[dict[str, Any]]:
    _, factor = unit(found["measure"])
    scaled = lambda value: None if value is None else factor * value  # noqa: E731
    drawn = []
    for c in found["comparisons"]:
        if c["paired"]["difference"] is None:
            continue
        low, high = c["paired"]["interval"] or (None, None)
        values = {"difference": c["paired"]["difference"], "low": low, "high": high}
        drawn.append(
            {"cell": c["cell"], "p": c["paired"]["p_corrected"], "verdict": c["verdict"]}
            | {name: scaled(value) for name, value in values.items()}
        )
    return drawn


def _points(found: Comparison) -> list[dict[str, Any]]:
    _, factor = unit(found["measure"])
    drawn = []
    for cell in found["cells"]:
        measured: Mapping[str, Any] = cell["measures"].get(found["measure"], {})
        if measured.get("mean") is None:
            continue
        low, high = measured["interval"] or (measured["mean"],) * 2
        costs = {
            "steps/s": cell["steps_per_second"],
            "parameters": cell["params"],
            "MFLOP a forward pass": cell["flops"] / 1e6,
            "peak MB": cell["peak_memory_bytes"] and cell["peak_memory_bytes"] / 1e6,
            "seconds to threshold": cell["seconds_to_threshold"],
        }
        drawn.append(
            {"cell": cell["cell"], "value": factor * measured["mean"], "low": factor * low, "high": factor * high}
            | {"costs": costs}
        )
    return drawn
