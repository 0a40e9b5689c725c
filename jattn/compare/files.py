"""The files of a comparison: everything in `comparison.json`, rows of cells in `cells.csv`, of runs in `runs.csv`."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jattn.compare.report import BASELINE
from jattn.training.run import write_atomically

LINE = 120
JSON, CELLS, RUNS = "comparison.json", "cells.csv", "runs.csv"


def write(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Writes what `report.build` returned; returns the paths."""
    texts = {
        JSON: _json(_finite(report)) + "\n",
        CELLS: _csv([_cell_row(report, cell) for cell in report["cells"]]),
        RUNS: _csv([_run_row(report, row) for row in report["runs"]]),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]


def _cell_row(report: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any]:
    measured = cell["measures"].get(report["measure"], {})
    found = next((c for c in report["comparisons"] if c["cell"] == cell["cell"]), None)
    low, high = measured.get("interval") or (None, None)
    row = {
        "cell": cell["cell"],
        **cell["settings"],
        "runs": cell["runs"],
        "failed": len(cell["failed"]),
        "measure": report["measure"],
        "mean": measured.get("mean"),
        "standard_error": measured.get("standard_error"),
        "low": low,
        "high": high,
        "verdict": BASELINE if found is None else found["verdict"],
    }
    for kind in ("paired", "unpaired"):
        values = {} if found is None else found[kind]
        low, high = values.get("interval") or (None, None)
        row |= {f"{kind}_{name}": values.get(name) for name in ("difference", "standard_error")}
        row |= {f"{kind}_low": low, f"{kind}_high": high}
        row |= {f"{kind}_{name}": values.get(name) for name in ("p_value", "p_corrected")}
    slow, fast = cell["steps_per_second_quartiles"] or (None, None)
    names = ("reached_threshold", "steps_to_threshold", "seconds_to_threshold")
    row |= {name: cell[name] for name in names} | {"area": cell["area"]["mean"]}
    row |= {name: cell[name] for name in ("params", "flops", "steps_per_second")}
    row |= {"steps_per_second_low": slow, "steps_per_second_high": fast}
    return row | {"peak_memory_bytes": cell["peak_memory_bytes"]}


def _run_row(report: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: value for name, value in run.items() if name not in ("measures", "curve", "origin")}
    origin = {} if run["origin"] is None else report["origins"][run["origin"]]
    commit, machine = (origin.get(name) or {} for name in ("commit", "machine"))
    return row | dict(run["measures"]) | {"commit": commit.get("hash"), "device": machine.get("device")}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    # A failed run has no measures: columns are those of all rows.
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _finite(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: Any, indent: str = "") -> str:
    """JSON with a line for what fits in one or holds nothing but scalars."""
    line = json.dumps(value, allow_nan=False)
    items = list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list) else []
    if len(indent) + len(line) <= LINE or not any(isinstance(item, dict | list) for item in items):
        return line
    within = indent + " "
    texts = [_json(item, within) for item in items]
    if isinstance(value, dict):
        texts = [f"{json.dumps(name)}: {text}" for name, text in zip(value, texts, strict=True)]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return start + ",".join(f"\n{within}{text}" for text in texts) + f"\n{indent}{end}"
