"""Speeds of cells' training steps, all cells in turn: for a budget of seconds, or when the runs are done.

python -m jattn.compare.speed FILE     # configs by name on standard input, what was measured into FILE
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jattn import config_json
from jattn.compare.grid import Cell
from jattn.errors import UserError

ROUNDS = 15


@dataclass(frozen=True)
class Speed:
    """Of one cell's compiled training step.

    Attributes:
      steps_per_second: of the median round.
      quartiles: the middle half of the rounds lies between these speeds.
      peak_memory_bytes: arguments, outputs and scratch of the program.
      error: why there is none of these; "" if there are.
    """

    steps_per_second: float | None = None
    quartiles: tuple[float, float] | None = None
    peak_memory_bytes: int | None = None
    error: str = ""


@dataclass(frozen=True)
class Speeds:
    """What was measured, by the cells' names, and on which machine."""

    machine: Mapping[str, Any]
    cells: Mapping[str, Speed]


def measured(cells: Sequence[Cell]) -> Speeds:
    """The speed of each cell's compiled training step now, as the machine is.

    Raises:
      UserError: nothing could be measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speeds.json"
        process = subprocess.run(
            [sys.executable, "-m", "jattn.compare.speed", str(path)],
            input=json.dumps({cell.name: config_json.to_json(cell.config) for cell in cells}),
            stderr=subprocess.PIPE,
            text=True,
        )
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"the speed of the cells could not be measured ({last})")
        return read(path)


def read(path: Path) -> Speeds:
    """What `main` wrote."""
    found = json.loads(path.read_text())
    cells = {
        name: Speed(**own | {"quartiles": own["quartiles"] and tuple(own["quartiles"])})
        for name, own in found["cells"].items()
    }
    return Speeds(found["machine"], cells)


def steps_per_second(cells: Sequence[Cell], path: Path) -> dict[str, float]:
    """The speed of each cell's compiled training step, by its name.

    What has been measured is read from `path`, where the rest is written, so that a comparison that goes on has the
    same runs.

    Raises:
      UserError: a cell cannot be measured.
    """
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    keys = {cell.name: config_json.config_hash(cell.config) for cell in cells}
    missing = [cell for cell in cells if keys[cell.name] not in known]
    if missing:
        for name, speed in measured(missing).cells.items():
            if speed.error:
                raise UserError(f"the speed of {name!r} could not be measured ({speed.error}): use another --budget")
            known[keys[name]] = speed.steps_per_second
        _write(path, known)
    return {name: known[key] for name, key in keys.items()}


def main(path: str, configs: Mapping[str, str]) -> None:
    """Measures the configs given and writes what was found into a file."""
    # In this process alone, which ends when it is done: on a GPU it would keep its memory from the runs.
    from jattn.bench.candidate import Measured, measure
    from jattn.bench.results import machine
    from jattn.bench.step import BareStep
    from jattn.process import prepare_process
    from jattn.training import setup

    def speed(found: Measured) -> Speed:
        if found.timing is None:
            return Speed(error=found.error)
        fast, slow = found.timing.quartiles
        return Speed(1 / found.timing.median, (1 / slow, 1 / fast), found.candidate.peak_bytes)

    prepare_process()
    makers = {
        name: lambda text=text: BareStep(setup.build(config_json.from_json(text))).candidate()
        for name, text in configs.items()
    }
    cells = {name: dataclasses.asdict(speed(found)) for name, found in measure(makers, ROUNDS).items()}
    _write(Path(path), {"machine": machine(), "cells": cells})


def _write(path: Path, found: Mapping[str, Any]) -> None:
    from jattn.training.run import write_atomically

    write_atomically(path, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], json.load(sys.stdin))
