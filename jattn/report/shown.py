"""What a page is about: cells of runs, from a comparison or from folders of runs."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jattn import config_json
from jattn.analysis.convergence import names
from jattn.compare import files
from jattn.compare.report import FORMAT
from jattn.config import Config
from jattn.errors import UserError
from jattn.evaluation.evaluate import RESULTS
from jattn.training.run import CONFIG, read_config

DEFAULT = "if not given"
"""What the column of defaults is called: as no folder is, for the other column has a run's."""

Comparison = Mapping[str, Any]
"""The content of a comparison.json."""

Points = tuple[Sequence[int | float], Sequence[int | float | None]]
"""Steps and values."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is drawn in one colour.

    Attributes:
      name: of the cell, or of the only run.
      runs: the folders of its finished runs that are there.
      seeds: of these.
      courses: steps and values of validation of each finished run, as a comparison keeps them.
    """

    name: str
    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    courses: tuple[Points, ...] = ()


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a page is about.

    Attributes:
      cells: in order.
      comparison: None of a page about runs.
      results: of a page about runs, what eval.py found of each, by name; without an entry where it was not called.
      options: option -> cell -> its value as Python writes it, of the options in which configs differ; of a single run
        those in which it differs from the default.
      configs: of a page about runs, by name.
    """

    cells: tuple[Cell, ...]
    comparison: Comparison | None
    results: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Mapping[str, str]]
    configs: Mapping[str, Config]


def of_comparison(folder: Path) -> Shown:
    """A comparison; the folders of its runs may be gone, or lie elsewhere than they did.

    Raises:
      UserError: the folder holds no comparison that can be read.
    """
    found = _read(folder)
    cells = []
    for cell in found["cells"]:
        # Runs lie in FOLDER/CELL/seedN, wherever FOLDER was when they were made.
        rows = [row for row in found["runs"] if row["cell"] == cell["cell"] and not row["failure"]]
        places = [folder / Path(*Path(row["folder"]).parts[-2:]) for row in rows]
        there = [(path, row["seed"]) for path, row in zip(places, rows, strict=True) if (path / CONFIG).exists()]
        courses = tuple((row["curve"]["steps"], row["curve"]["values"]) for row in rows)
        cells.append(Cell(cell["cell"], tuple(p for p, _ in there), tuple(s for _, s in there), courses))
    baseline, changed = found["baseline"], {}
    for cell in found["cells"]:
        for difference in cell["differs"]:
            option, _, values = difference.partition(": ")
            before, _, after = values.partition(" -> ")
            changed.setdefault(option, {baseline: before})[cell["cell"]] = after
    options = {
        option: {cell.name: values.get(cell.name, values[baseline]) for cell in cells}
        for option, values in changed.items()
    }
    return Shown(tuple(cells), found, {}, options, {})


def of_runs(workdirs: Sequence[Path]) -> Shown:
    """Runs, each a cell of its own.

    Raises:
      UserError: a folder holds no run, or two are the same.
    """
    named = names(workdirs)
    configs = {name: read_config(workdir) for workdir, name in named.items()}
    compared = configs if len(configs) > 1 else {DEFAULT: Config()} | configs
    flat = {name: config_json.flatten(config) for name, config in compared.items()}
    values = {option: {name: repr(of[option]) for name, of in flat.items()} for option in next(iter(flat.values()))}
    return Shown(
        cells=tuple(Cell(name, (workdir,), (configs[name].seed,)) for workdir, name in named.items()),
        comparison=None,
        results={name: found for workdir, name in named.items() if (found := _results(workdir))},
        options={option: of for option, of in values.items() if len(set(of.values())) > 1},
        configs=configs,
    )


def _read(folder: Path) -> Comparison:
    path = folder / files.JSON
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = f"holds no {files.JSON}" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} {what}: give the --workdir of a finished `python -m jattn compare`, or --workdir=RUN for a run"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): repeat the comparison, which keeps finished runs") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is no comparison of format {FORMAT}: repeat the comparison, which keeps finished runs")
    return found


def _results(workdir: Path) -> Mapping[str, Any]:
    try:
        return json.loads((workdir / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
