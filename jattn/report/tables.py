"""Tables of a page: plain HTML that can be read without a program, and that one sorts and filters."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jattn.compare.report import BASELINE, BETTER, NONE_SHOWN, WORSE
from jattn.compare.table import unit
from jattn.report.shown import Comparison, Shown
from jattn.report.words import commit, count, fixed, interval, named, number, places

MARKS = {BETTER: "▲", WORSE: "▼", NONE_SHOWN: "≈", BASELINE: "●"}
"""Signs of verdicts, which need no colours."""


class Entry(NamedTuple):
    """One place of a table.

    Attributes:
      text: what it says; escaped when it is written.
      order: what it is sorted by; None = its text.
      markup: HTML in place of the text.
    """

    text: str
    order: float | int | None = None
    markup: str = ""


def table(name: str, caption: str, columns: Mapping[str, str], rows: Sequence[Sequence[Entry]]) -> str:
    """A table in a box that scrolls sideways, with a field that filters its rows where there are many.

    Args:
      name: of the table's element.
      caption: what it holds, for those who do not see the page.
      columns: title -> what it means, "" where that is plain.
      rows: as many entries each; the first one names its row.
    """
    numeric = [any(row[i].order is not None for row in rows) for i in range(len(columns))]
    head = "".join(
        f'<th scope="col"{_number(is_number)}{_title(about)}><button type="button">{html.escape(title)}</button></th>'
        for (title, about), is_number in zip(columns.items(), numeric, strict=True)
    )
    body = "\n".join(f"<tr>{''.join(map(_entry, row, range(len(row)), numeric))}</tr>" for row in rows)
    return (
        f'<div class="filter" data-table="{name}"></div>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}">\n'
        f'<table id="{name}"><caption>{html.escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
    )


def of_cells(found: Comparison) -> str:
    """A row a cell: what was found, how it differs from the baseline, what it cost."""
    measure = found["measure"]
    sign, factor = unit(measure)
    curve_sign, curve_factor = unit(found["curve"])
    of = f", {sign}" if sign else ""
    reached = f"{number(found['threshold'], curve_factor)} {curve_sign}".strip()
    when = "timed when the runs were done, in turn" if found["speeds"] else "as the runs ran, whatever ran beside them"
    columns = {
        "cell": "",
        "verdict": f"paired difference from {found['baseline']}, corrected p at most 0.05",
        f"{measure.replace('_', ' ')}{of}": f"mean over seeds ± standard error, {found['split']} split",
        "each run": "a point a seed, the line is the mean",
        "95 % interval": "bootstrap interval of the mean",
        f"difference{of}": f"mean over seeds of the cell minus {found['baseline']}",
        "its 95 % interval": "bootstrap interval of the difference",
        "p": "permutation test, corrected for the number of comparisons",
        "steps to threshold": f"median of the steps until {found['curve']} reached {reached}",
        f"area{f', {curve_sign}' if curve_sign else ''}": f"mean height of {found['curve']} over the steps",
        "parameters": "",
        "MFLOP": "of a forward pass of one example",
        "steps/s": f"median; {when}",
        "middle half": "between these speeds lies the middle half of those measured",
        "peak MB": f"of memory; {when}",
    }
    by_name = {c["cell"]: c for c in found["comparisons"]}
    values = [v for cell in found["cells"] for v in cell["measures"].get(measure, {}).get("values", ())]
    decimals = places([factor * value for value in values])
    rows = [
        _of_cell(cell, by_name.get(cell["cell"]), measure, values, decimals, curve_factor) for cell in found["cells"]
    ]
    return table("cells", f"Cells, {named(measure)} on the {found['split']} split", columns, rows)


def _of_cell(
    cell: Mapping[str, Any],
    other: Mapping[str, Any] | None,
    measure: str,
    values: Sequence[float],
    decimals: int,
    curve_factor: float,
) -> list[Entry]:
    """A row of `of_cells`; `values` of all runs are the scale of its points."""
    _, factor = unit(measure)
    measured = cell["measures"].get(measure, {})
    paired = other["paired"] if other else {}
    verdict = other["verdict"] if other else BASELINE
    failed = len(cell["failed"])
    mean, error, ends = (measured.get(name) for name in ("mean", "standard_error", "interval"))
    said = "none finished" if mean is None else fixed(factor * mean, decimals)
    said += "" if error is None else f" ± {fixed(factor * error, decimals)}"
    difference, apart = paired.get("difference"), paired.get("interval")
    about = "" if difference is None else fixed(factor * difference, decimals, sign=True)
    return [
        Entry(cell["cell"] + (f" ({count(failed, 'run')} failed)" if failed else "")),
        Entry(verdict, markup=_verdict(verdict)),
        Entry(said, _order(mean)),
        Entry("", _order(mean), _strip(measured.get("values", ()), mean, values)),
        Entry(interval(ends, factor, decimals), _order((ends or [None])[0])),
        Entry(about, _order(difference)),
        Entry(interval(apart, factor, decimals, sign=True), _order((apart or [None])[0])),
        Entry(_p(paired.get("p_corrected")), _order(paired.get("p_corrected"))),
        Entry(_steps(cell), _order(cell["steps_to_threshold"])),
        Entry(number(cell["area"]["mean"], curve_factor), _order(cell["area"]["mean"])),
        Entry(f"{cell['params']:,}", cell["params"]),
        Entry(f"{cell['flops'] / 1e6:,.4g}", cell["flops"]),
        Entry(number(cell["steps_per_second"]), _order(cell["steps_per_second"])),
        Entry(" to ".join(map(number, cell["steps_per_second_quartiles"] or ())), _order(cell["steps_per_second"])),
        Entry(number(cell["peak_memory_bytes"], 1e-6), _order(cell["peak_memory_bytes"])),
    ]


def of_runs(shown: Shown) -> str:
    """A row a run, failed ones among them: of a comparison all, else those of the page."""
    if shown.comparison is not None:
        return _of_comparison_runs(shown.comparison)
    measures = list(dict.fromkeys(m for of in shown.results.values() for m in of["measures"]))
    columns = {"run": "", "evaluated": "split, and step of the checkpoint"} | {named(m): "" for m in measures}
    rows = []
    for cell in shown.cells:
        of = shown.results.get(cell.name)
        where = f"{of['split']}, step {of['step']:,}" if of else "not evaluated: call eval.py"
        found = of["measures"] if of else {}
        rows.append(
            [
                Entry(cell.name),
                Entry(where),
                *(Entry(number(found.get(m), unit(m)[1]), _order(found.get(m))) for m in measures),
            ]
        )
    return table("runs", "Runs", columns, rows)


def of_options(shown: Shown) -> str:
    """The options in which configs differ; the fewer of options and cells go across."""
    options = shown.options
    names = list(next(iter(options.values())))
    if len(options) > len(names):
        rows = [[Entry(option), *(Entry(of[name]) for name in names)] for option, of in options.items()]
        return table("options", "Options in which the configs differ", {"option": ""} | dict.fromkeys(names, ""), rows)
    rows = [[Entry(name), *(Entry(of[name]) for of in options.values())] for name in names]
    return table("options", "Options in which the configs differ", {"cell": ""} | dict.fromkeys(options, ""), rows)


def _of_comparison_runs(found: Comparison) -> str:
    measures = list(dict.fromkeys(m for row in found["runs"] for m in row["measures"]))
    columns = {"cell": "", "seed": "", "outcome": "step of the checkpoint that was evaluated, or why the run failed"}
    columns |= {named(m): "" for m in measures}
    columns |= {
        "seconds": "of the process that finished it",
        "config": "hash",
        "commit": "state of the code that made it",
    }
    rows = [
        [
            Entry(row["cell"]),
            Entry(str(row["seed"]), row["seed"]),
            _outcome(row),
            *(Entry(number(row["measures"].get(m), unit(m)[1]), _order(row["measures"].get(m))) for m in measures),
            Entry(number(row["seconds"]), _order(row["seconds"])),
            Entry(row["config_hash"]),
            Entry("" if row["origin"] is None else commit(found["origins"][row["origin"]]["commit"])),
        ]
        for row in found["runs"]
    ]
    return table("runs", "Runs", columns, rows)


def _outcome(row: Mapping[str, Any]) -> Entry:
    if not row["failure"]:
        return Entry(f"step {row['step']:,}")
    return Entry("", markup=f'<span class="verdict worse">failed: {html.escape(row["failure"])}</span>')


def _entry(entry: Entry, column: int, is_number: bool) -> str:
    name = 'th scope="row"' if column == 0 else "td"
    order = "" if entry.order is None else f' data-order="{entry.order!r}"'
    return f"<{name}{_number(is_number)}{order}>{entry.markup or html.escape(entry.text)}</{name[:2]}>"


def _number(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _title(about: str) -> str:
    return f' title="{html.escape(about)}"' if about else ""


def _verdict(verdict: str) -> str:
    name = {BETTER: "better", WORSE: "worse", BASELINE: "baseline"}.get(verdict, "none")
    return f'<span class="verdict {name}">{MARKS.get(verdict, "–")} {html.escape(verdict)}</span>'


def _strip(values: Sequence[float], mean: float | None, of_all: Sequence[float]) -> str:
    """Values as points on a line that has the same ends in all rows."""
    if mean is None:
        return "–"
    low, high = min(of_all), max(of_all)
    place = lambda value: 6 + 108 * ((value - low) / (high - low) if high > low else 0.5)  # noqa: E731
    points = "".join(f'<circle cx="{place(value):.1f}" cy="9" r="3"/>' for value in values)
    at = f"{place(mean):.1f}"
    return (
        '<svg class="strip" width="120" height="18" aria-hidden="true"><line x1="0" x2="120" y1="9" y2="9"/>'
        f'{points}<path d="M{at} 1V17"/></svg>'
    )


def _steps(cell: Mapping[str, Any]) -> str:
    finished = cell["runs"] - len(cell["failed"])
    if cell["steps_to_threshold"] is None:
        return "not reached"
    part = f" ({cell['reached_threshold']} of {finished})" if cell["reached_threshold"] < finished else ""
    return f"{cell['steps_to_threshold']:,g}{part}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _order(value: float | int | None) -> float | int:
    """What is missing comes last in either order: NaN."""
    return float("nan") if value is None else value
