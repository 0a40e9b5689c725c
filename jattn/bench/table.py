"""Rows of results as tables: on the console, and in Markdown.

"x first" is how many times faster a row is than the first of its part, "scratch x first" how many times less scratch
memory it needs; "x released" and the like the same against a peer.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def console() -> Console:
    """The terminal, or a file, in which no column needs to be narrow."""
    found = Console()
    return found if found.is_terminal else Console(width=240)


def show(console: Console, benchmark: str, rows: Sequence[Row]) -> None:
    """Prints the rows; what is the same in all of them is the title."""
    shared, columns = _of_cases(rows)
    title = ", ".join([benchmark, *(str(value) for value in shared.values())])
    names = _measured_names(rows)
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="right" if name == "length" else "left")
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(str(row["case"].get(name, "")) for name in columns), *cells(row, names))
    console.print(table)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, below a line of what is the same in all of them."""
    shared, columns = _of_cases(rows)
    names = _measured_names(rows)
    lines = [", ".join(map(str, shared.values())), ""] if shared else []
    lines += ["| " + " | ".join([*columns, *names]) + " |", "|" + " --- |" * len(columns) + " ---: |" * len(names)]
    for row in rows:
        values = [str(row["case"].get(name, "")) for name in columns] + cells(row, names)
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def cells(row: Row, names: Iterable[str]) -> list[str]:
    """The measured columns of a row as text; of a failed row the first one says why."""
    if "error" in row:
        return [row["error"], *("" for _ in list(names)[1:])]
    made = _cells(row)
    return [made.get(name, "") for name in names]


def _cells(row: Row) -> dict[str, str]:
    low, high = row["milliseconds_quartiles"]
    found = {"ms (quartiles)": f"{_number(row['milliseconds'])} ({_number(low)} to {_number(high)})"}
    if row.get("items_per_second") is not None:
        found["items/s"] = _engineering(row["items_per_second"])
    if row.get("scratch_bytes") is not None:
        found["scratch MB"] = f"{row['scratch_bytes'] / 1e6:.1f}"
    if row.get("device_peak_bytes") is not None:
        found["device peak MB"] = f"{row['device_peak_bytes'] / 1e6:.1f}"
    if row.get("flops") is not None:
        found["FLOP"] = _engineering(row["flops"])
    if row.get("matmul_share") is not None:
        found["of matmul"] = f"{row['matmul_share']:.0%}"
    for name, ratio in row.get("times_better_than", {}).items():
        low, high = ratio["speed_quartiles"]
        found[f"x {name}"] = f"{ratio['speed']:.2f} ({low:.2f} to {high:.2f})"
        if row.get("scratch_bytes"):
            found[f"scratch x {name}"] = f"{ratio['scratch']:.1f}"
    if "target" in row:
        target = row["target"]
        wanted = f"{target['speed']:g}" + ("" if target["scratch"] is None else f", scratch {target['scratch']:g}")
        found["target"] = f"{wanted}: {'reached' if target['reached'] else 'MISSED'}"
    return found


def _measured_names(rows: Sequence[Row]) -> list[str]:
    """Columns in the order in which rows first have them."""
    names = {name: None for row in rows if "error" not in row for name in _cells(row)}
    return list(names) or ["result"]


def _of_cases(rows: Sequence[Row]) -> tuple[dict[str, Any], list[str]]:
    """What all cases share, and the names of what distinguishes them."""
    names = list({name: None for row in rows for name in row["case"]})
    values = {name: {str(row["case"].get(name)) for row in rows} for name in names}
    shared = {name: rows[0]["case"][name] for name in names if len(rows) > 1 and len(values[name]) == 1}
    return shared, [name for name in names if name not in shared]


def _number(value: float | int) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _engineering(value: float | int) -> str:
    factor, unit = next(((f, u) for f, u in _UNITS if value >= f), (1.0, ""))
    return f"{value / factor:.3g}{unit}"
