"""Results for the eye."""

from typing import Any

from rich.console import Console
from rich.table import Table

PERCENT = ("accuracy", "top5_accuracy")


def print_table(results: dict[str, Any], console: Console | None = None) -> None:
    """Prints what `evaluate` returned as a table, on standard output unless another console is given."""
    title = (
        f"{results['workdir']}: {results['split']} split, {results['examples']:,} examples, "
        f"{results['checkpoint']} checkpoint (step {results['step']})"
    )
    table = Table()
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in results["measures"].items():
        table.add_row(name, f"{value:.2%}" if name in PERCENT else f"{value:.4f}")
    console = Console() if console is None else console
    console.print(title, highlight=False, markup=False)
    console.print(table)
