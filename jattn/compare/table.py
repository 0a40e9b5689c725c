"""A comparison for the eye: what was found, what it cost, and what to bear in mind."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jattn.compare import statistics

Report = Mapping[str, Any]
Cell = Mapping[str, Any]

PERCENT = ("accuracy", "top5_accuracy")


def show(console: Console, report: Report) -> None:
    """Prints the tables and the notes."""
    console.print(f"\n{report['heading']}", highlight=False, markup=False, soft_wrap=True)
    tables = {"Found": [_found(report, cell) for cell in report["cells"]]}
    if report["comparisons"]:
        title = f"Against {report['baseline']}: paired differences, p-values corrected for {_times(report)}"
        tables[title] = [_compared(report, found) for found in report["comparisons"]]
    tables[_cost_title(report)] = [_cost(report, cell) for cell in report["cells"]]
    for title, rows in tables.items():
        console.print(f"\n{title}", highlight=False, markup=False, soft_wrap=True)
        console.print(_table(rows))
    for note in report["notes"]:
        console.print(f"- {note}", highlight=False, markup=False, soft_wrap=True)


def of_values(title: str, values: Mapping[str, statistics.Values], factor: float = 1.0) -> Table:
    """Runs that no `compare` made: means of one measure, and paired differences to the first of the cells.

    Args:
      title: of the table.
      values: cell -> the measure of its runs, in each cell of the same seeds in the same order.
      factor: multiplies what is shown: 100 for percent.

    Returns:
      A table with the columns of a comparison; a notebook shows it if it ends a cell. p-values are corrected for the
      number of cells that are compared.
    """
    first, *others = values
    pairs = {name: statistics.paired(values[name], values[first]) for name in others}
    corrected = statistics.corrected_together(
        {name: dict(enumerate(np.subtract(values[name], values[first]))) for name in others}
    )
    rows = []
    for name, own in values.items():
        row = {
            "cell": name,
            "mean ± s.e.": _mean(dataclasses.asdict(statistics.summary(own)), factor),
            "each run": ", ".join(number(value, factor) for value in own),
            "difference": "",
            "95 % interval": "",
            "p": "",
        }
        if name in pairs:
            row["difference"] = number(pairs[name].difference, factor, sign=True)
            row["95 % interval"] = _interval(pairs[name].interval, factor, sign=True)
            row["p"] = _p(corrected[name])
        rows.append(row)
    return _table(rows, title)


def describe(measure: str, values: Mapping[str, float]) -> str:
    """A measure of one run in few words.

    >>> describe("accuracy", {"accuracy": 0.953})
    'accuracy 95.3 %'
    """
    sign, factor = unit(measure)
    return f"{measure} {factor * values[measure]:.4g}{' ' + sign if sign else ''}"


def _table(rows: Sequence[Mapping[str, str]], title: str | None = None) -> Table:
    table = Table(title=title)
    for name in rows[0]:
        words = name in ("cell", "verdict")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row.values()))
    return table


def _found(report: Report, cell: Cell) -> dict[str, str]:
    sign, factor = unit(report["measure"])
    measured = cell["measures"].get(report["measure"], {})
    return {
        "cell": cell["cell"],
        "runs": _runs(cell),
        f"{report['measure']}{sign and ', ' + sign}: mean ± s.e.": _mean(measured, factor),
        "95 % interval": _interval(measured.get("interval"), factor),
        "each run": ", ".join(number(value, factor) for value in measured.get("values", ())),
    }


def _compared(report: Report, found: Mapping[str, Any]) -> dict[str, str]:
    _, factor = unit(report["measure"])
    paired = found["paired"]
    return {
        "cell": found["cell"],
        "difference": number(paired["difference"], factor, sign=True),
        "95 % interval": _interval(paired["interval"], factor, sign=True),
        "p": _p(paired["p_corrected"]),
        "p unpaired": _p(found["unpaired"]["p_corrected"]),
        "verdict": found["verdict"],
    }


def _times(report: Report) -> str:
    times = len(report["comparisons"])
    return f"{times} comparisons" if times > 1 else "one comparison"


def _cost_title(report: Report) -> str:
    timed = "timed when the runs were done, in turn" if report["speeds"] else "those of the runs as they ran"
    title = f"Course and cost; speeds are {timed}"
    if report["threshold"] is None:
        return title
    sign, factor = unit(report["curve"])
    relation = ">=" if report["higher_is_better"] else "<="
    reached = f"{report['curve']} {relation} {number(report['threshold'], factor)}{sign and ' ' + sign}"
    return f"{title}; steps and seconds are those to {reached}, {report['threshold_is']}"


def _cost(report: Report, cell: Cell) -> dict[str, str]:
    sign, factor = unit(report["curve"])
    finished = cell["runs"] - len(cell["failed"])
    part = f" ({cell['reached_threshold']} of {finished})" if cell["reached_threshold"] < finished else ""
    return {
        "cell": cell["cell"],
        "steps": "" if cell["steps_to_threshold"] is None else f"{cell['steps_to_threshold']:g}{part}",
        "seconds": number(cell["seconds_to_threshold"], 1.0),
        f"area{sign and ', ' + sign}": number(cell["area"]["mean"], factor),
        "parameters": f"{cell['params']:,}",
        "MFLOP": f"{cell['flops'] / 1e6:,.4g}",
        "peak MB": number(cell["peak_memory_bytes"], 1e-6),
        "steps/s": number(cell["steps_per_second"], 1.0),
        "middle half": _interval(cell["steps_per_second_quartiles"], 1.0),
    }


def _runs(cell: Cell) -> str:
    failed = len(cell["failed"])
    return f"{cell['runs'] - failed} ({failed} failed)" if failed else str(cell["runs"])


def _mean(measured: Mapping[str, Any], factor: float) -> str:
    if measured.get("mean") is None:
        return "none finished"
    error = measured["standard_error"]
    return number(measured["mean"], factor) + ("" if error is None else f" ± {factor * error:.2g}")


def _interval(interval: Sequence[float] | None, factor: float, *, sign: bool = False) -> str:
    return "" if interval is None else " to ".join(number(end, factor, sign=sign) for end in interval)


def number(value: float | int | None, factor: float, *, sign: bool = False) -> str:
    """To four digits; None is empty.

    >>> number(0.012345, 100.0, sign=True)
    '+1.235'
    """
    if value is None:
        return ""
    shown = round(factor * value, 12) + 0.0  # a mean of differences that cancel is 0 but for rounding, and never -0
    return f"{shown:{'+' if sign and shown else ''}.4g}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def unit(measure: str) -> tuple[str, float]:
    """How a measure, or a metric such as valid/accuracy, is written: its unit and the factor that gives it."""
    return ("%", 100.0) if measure.rpartition("/")[2] in PERCENT else ("", 1.0)
