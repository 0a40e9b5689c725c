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
    shared, header, lines = _laid_out(rows)
    table = Table(title=", ".join([benchmark, *shared]))
    for name in header:
        table.add_column(name, justify="left" if name in _WORDS else "right")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, below a line of what is the same in all of them."""
    shared, header, lines = _laid_out(rows)
    rules = ["---" if name in _WORDS else "---:" for name in header]
    text = [", ".join(shared), ""] if shared else []
    return "\n".join([*text, *("| " + " | ".join(line) + " |" for line in (header, rules, *lines))]) + "\n"


_WORDS = ("target", "shape", "dtype", "direction", "mechanism", "part", "implementation", "model", "peer", "reached")
"""Columns that are not numbers."""


def _laid_out(rows: Sequence[Row]) -> tuple[list[str], list[str], list[list[str]]]:
    """What all rows share, the header, and the lines: of goals one each, with the peer's figures beside ours."""
    if any("target" in row for row in rows):
        return [], list(_GOAL), [_goal(row, rows) for row in rows if "target" in row]
    shared, columns = _of_cases(rows)
    names = _measured_names(rows)
    lines = [[*(str(row["case"].get(name, "")) for name in columns), *cells(row, names)] for row in rows]
    return list(map(str, shared.values())), [*columns, *names], lines


_GOAL = ("target", "mechanism", "ms", "peer", "its ms", "speed x peer", "wanted speed")
_GOAL += ("scratch MB", "its scratch MB", "scratch x peer", "wanted scratch", "reached")


def _goal(ours: Row, rows: Sequence[Row]) -> list[str]:
    name, wanted = ours["case"]["target"], ours["target"]
    both = [row for row in rows if row["case"].get("target") == name]
    peer = next((row for row in both if row is not ours), {"error": "no peer"})
    begin = [name, ours["case"]["mechanism"]]
    errors = [row["error"] for row in (ours, peer) if "error" in row]
    if errors:
        return [*begin, *[""] * (len(_GOAL) - 3), "; ".join(errors)]
    of_peer = peer["case"]["implementation"]
    (low, high), ratio = ours["times_better_than"][of_peer]["speed_quartiles"], ours["times_better_than"][of_peer]
    return [
        *begin,
        _number(ours["milliseconds"]),
        of_peer,
        _number(peer["milliseconds"]),
        f"{ratio['speed']:.2f} ({low:.2f} to {high:.2f})",
        f"{wanted['speed']:g}",
        f"{ours['scratch_bytes'] / 1e6:.1f}",
        f"{peer['scratch_bytes'] / 1e6:.1f}",
        f"{ratio['scratch']:.1f}",
        "" if wanted["scratch"] is None else f"{wanted['scratch']:g}",
        "yes" if wanted["reached"] else "NO",
    ]


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
