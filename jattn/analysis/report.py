"""What one analysis found, and how it is written: numbers as JSON, tables for the terminal, pictures."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from jattn import figures
from jattn.errors import UserError
from jattn.training.run import write_atomically


@dataclasses.dataclass
class Report:
    """What one analysis found.

    Attributes:
      values: what goes into the JSON file; arrays become lists, numbers that are not finite null.
      tables: for the terminal.
      figures: by the name of their file, without its ending.
      pages: texts of HTML by name.
      arrays: what goes into an .npz file.
      notes: sentences that a reader of the numbers has to know besides.
    """

    values: dict[str, Any]
    tables: list[Table] = dataclasses.field(default_factory=list)
    figures: dict[str, Figure] = dataclasses.field(default_factory=dict)
    pages: dict[str, str] = dataclasses.field(default_factory=dict)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def write(report: Report, folder: Path, name: str, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Writes NAME.npz if there are arrays, NAME-PAGE.html, NAME-FIGURE in each of `figures.FORMATS` that is asked for,
    and NAME.json, which lists them as `files`; returns their paths, NAME.json first.

    What an earlier NAME.json lists is removed before, so that no picture of other examples or layers stays beside it.

    Raises:
      UserError: the folder cannot be written to.
    """
    numbers, paths = folder / f"{name}.json", []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in _written_before(numbers):
            path.unlink(missing_ok=True)
        if report.arrays:
            paths.append(folder / f"{name}.npz")
            np.savez_compressed(paths[-1], **report.arrays)
        for page, html in report.pages.items():
            paths.append(folder / f"{name}-{page}.html")
            write_atomically(paths[-1], html)
        for figure, drawn in report.figures.items():
            paths += figures.save(drawn, folder, f"{name}-{figure}", formats)
        values = report.values | {"notes": report.notes, "files": [path.name for path in paths]}
        write_atomically(numbers, json.dumps(plain(values), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror or error}): choose another folder with --out"
        ) from error
    return [numbers, *paths]


def _written_before(numbers: Path) -> list[Path]:
    """The files that a JSON file of `write` lists; none where there is no such file, or it is somebody else's."""
    try:
        listed = json.loads(numbers.read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    own = (f"{numbers.stem}.npz", f"{numbers.stem}-")
    return [
        numbers.with_name(file)
        for file in (listed if isinstance(listed, list) else [])
        if isinstance(file, str) and file.startswith(own) and Path(file).name == file
    ]


def show(report: Report) -> None:
    """Prints tables and notes; in a file, no column is narrow."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for table in report.tables:
        console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Rows of words and numbers; None is an empty cell."""
    made = Table(title=title)
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if rows and isinstance(rows[0][i], str) else "right")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def plain(value: Any) -> Any:
    """A JSON value: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return ""
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)
