"""A comparison for the eye: what was found, what it cost, and what to bear in mind."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from jattn.compare.report import BASELINE

Report = Mapping[str, Any]
Cell = Mapping[str, Any]

PERCENT = ("accuracy", "top5_accuracy")


def show(console: Console, report: Report) -> None:
    """Prints the tables and the notes."""
    console.print(f"\n{report['heading']}", highlight=False, markup=False)
    for title, rows in (("What was found", _found(report)), ("What it took", _cost(report))):
        table = Table(title=title, title_justify="left")
        for name in rows[0]:
            table.add_column(name, justify="left" if name in ("cell", "verdict") else "right")
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
    for note in report["notes"]:
        console.print(f"- {note}", highlight=False, markup=False, soft_wrap=True)


def describe(measure: str, values: Mapping[str, float]) -> str:
    """A measure of one run in few words.

    >>> describe("accuracy", {"accuracy": 0.953})
    'accuracy 95.3 %'
    """
    unit, factor = _unit(measure)
    return f"{measure} {factor * values[measure]:.4g}{' ' + unit if unit else ''}"


def _found(report: Report) -> list[dict[str, str]]:
    unit, factor = _unit(report["measure"])
    measure = f"{report['measure']}{', ' + unit if unit else ''}"
    comparisons = {c["cell"]: c for c in report["comparisons"]}
    rows = []
    for cell in report["cells"]:
        measured = cell["measures"].get(report["measure"], {})
        row = {
            "cell": cell["cell"],
            "runs": _runs(cell),
            f"{measure}: mean ± s.e.": _mean(measured, factor),
            "95 % interval": _interval(measured.get("interval"), factor),
        }
        if comparisons:
            found = comparisons.get(cell["cell"])
            paired, unpaired = (found["paired"], found["unpaired"]) if found else ({}, {})
            row |= {
                "difference, paired": _number(paired.get("difference"), factor, sign=True),
                "its 95 % interval": _interval(paired.get("interval"), factor, sign=True),
                "p, corrected": _p(paired.get("p_corrected")),
                "p unpaired": _p(unpaired.get("p_corrected")),
                "verdict": found["verdict"] if found else BASELINE,
            }
        rows.append(row)
    return rows


def _cost(report: Report) -> list[dict[str, str]]:
    unit, factor = _unit(report["curve"].removeprefix("valid/"))
    sign = ">=" if report["higher_is_better"] else "<="
    to = f"to {report['curve']} {sign} {_number(report['threshold'], factor)}{' ' + unit if unit else ''}"
    rows = []
    for cell in report["cells"]:
        finished = cell["runs"] - len(cell["failed"])
        part = f" ({cell['reached_threshold']} of {finished})" if cell["reached_threshold"] < finished else ""
        rows.append(
            {
                "cell": cell["cell"],
                f"steps {to}": "" if cell["steps_to_threshold"] is None else f"{cell['steps_to_threshold']:g}{part}",
                "seconds": _number(cell["seconds_to_threshold"], 1.0),
                f"area, {unit}" if unit else "area": _number(cell["area"]["mean"], factor),
                "parameters": f"{cell['params']:,}",
                "MFLOP": f"{cell['flops'] / 1e6:,.4g}",
                "peak MB": _number(cell["peak_memory_bytes"], 1e-6),
                "steps/s": _number(cell["steps_per_second"], 1.0),
            }
        )
    return rows


def _runs(cell: Cell) -> str:
    failed = len(cell["failed"])
    return f"{cell['runs'] - failed} ({failed} failed)" if failed else str(cell["runs"])


def _mean(measured: Mapping[str, Any], factor: float) -> str:
    if measured.get("mean") is None:
        return "none finished"
    error = measured["standard_error"]
    return _number(measured["mean"], factor) + ("" if error is None else f" ± {factor * error:.2g}")


def _interval(interval: Sequence[float] | None, factor: float, *, sign: bool = False) -> str:
    return "" if interval is None else " to ".join(_number(end, factor, sign=sign) for end in interval)


def _number(value: float | int | None, factor: float, *, sign: bool = False) -> str:
    return "" if value is None else f"{factor * value:{'+' if sign else ''}.4g}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _unit(measure: str) -> tuple[str, float]:
    return ("%", 100.0) if measure in PERCENT else ("", 1.0)
