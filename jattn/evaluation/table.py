"""Results for the eye."""

from typing import Any

from rich.console import Console
from rich.table import Table

PERCENT = ("accuracy", "top5_accuracy", "expected_calibration_error")
SHOWN = 20
"""The confusion matrix of more classes does not fit on a terminal: their worst pairs are shown."""


def print_table(results: dict[str, Any], console: Console | None = None) -> None:
    """Prints what `evaluate` returned as tables, on standard output unless another console is given."""
    console = Console() if console is None else console
    console.print(_title(results), highlight=False, markup=False)
    table = _table("measure", "value")
    rows = dict(results["measures"])
    if "calibration" in results:
        rows["expected_calibration_error"] = results["calibration"]["expected_calibration_error"]
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, f"{value:.2%}" if name in PERCENT else f"{value:.4f}")
    for name, value in results.get("speed", {}).items():
        shown = {str: "{}", int: "{:,}", float: "{:,.4g}"}[type(value)]
        table.add_row(name, shown.format(value))
    console.print(table)
    if "classes" in results:
        _print_classes(results["classes"], console)
    if "spans" in results:
        console.print(_spans(results["spans"]))


def _title(results: dict[str, Any]) -> str:
    windows = results.get("windows")
    how = ""
    if windows is not None:
        how = f", windows of {windows['length']} with stride {windows['stride']}, mean over {windows['average']}"
    return (
        f"{results['workdir']}: {results['split']} split, {results['examples']:,} examples, "
        f"{results['checkpoint']} checkpoint (step {results['step']}){how}"
    )


def _print_classes(found: dict[str, Any], console: Console) -> None:
    matrix = found.get("confusion", ())
    if 0 < len(matrix) <= SHOWN:
        table = _table("true \\ predicted", *map(str, range(len(matrix))), "recall")
        for label, (row, recall) in enumerate(zip(matrix, found["recall"], strict=True)):
            cells = [f"{count:g}" if count else "" for count in row]
            table.add_row(str(label), *cells, "" if recall is None else f"{recall:.1%}")
        console.print(table)
    elif found["most_confused"]:
        table = _table("class", "taken for", "examples")
        for pair in found["most_confused"]:
            table.add_row(str(pair["class"]), str(pair["taken_for"]), f"{pair['examples']:g}")
        console.print(table)


def _spans(found: dict[str, Any]) -> Table:
    table = _table("layer", "head", "span", "unmasked keys", "period", "masked by the wave", "blocks saved")
    for layer, heads in found.items():
        for head, span in enumerate(heads["span"]):
            period = heads["period"][head]
            wave = ("", "") if period is None else (f"{period:.2f}", f"{heads['removed'][head]:.1%}")
            saved = "" if head else f"{heads['saved']:.1%}"
            table.add_row("" if head else layer, str(head), f"{span:.0f}", f"{heads['keys'][head]:.1f}", *wave, saved)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
