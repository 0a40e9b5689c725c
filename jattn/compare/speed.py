"""Speeds of cells' training steps, for a budget of seconds: measured once a comparison, all cells in turn.

python -m jattn.compare.speed FILE     # configs by name on standard input, steps per second by name into FILE
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jattn import config_json
from jattn.compare.grid import Cell
from jattn.errors import UserError

_ROUNDS = 9


def steps_per_second(cells: Sequence[Cell], path: Path) -> dict[str, float]:
    """The speed of each cell's compiled training step, by its name.

    What has been measured is read from `path`, where the rest is written, so that a comparison that goes on has the
    same runs.

    Raises:
      UserError: a cell cannot be measured.
    """
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    keys = {cell.name: config_json.config_hash(cell.config) for cell in cells}
    missing = {keys[cell.name]: config_json.to_json(cell.config) for cell in cells if keys[cell.name] not in known}
    if missing:
        process = subprocess.run(
            [sys.executable, "-m", "jattn.compare.speed", str(path)],
            input=json.dumps({"configs": missing, "known": known}),
            stderr=subprocess.PIPE,
            text=True,
        )
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"the speed of the cells could not be measured ({last}): use --budget steps or tokens")
        known = json.loads(path.read_text())
    return {name: known[key] for name, key in keys.items()}


def main(path: str, given: Mapping[str, Mapping]) -> None:
    """Measures the configs given and writes their speeds, and those known before, into a file."""
    # In this process alone, which ends when it is done: on a GPU it would keep its memory from the runs.
    from jattn.bench.candidate import measure
    from jattn.bench.step import BareStep
    from jattn.process import prepare_process
    from jattn.training import setup
    from jattn.training.run import write_atomically

    prepare_process()
    makers = {
        name: lambda text=text: BareStep(setup.build(config_json.from_json(text))).candidate()
        for name, text in given["configs"].items()
    }
    found = dict(given["known"])
    for name, measured in measure(makers, _ROUNDS).items():
        if measured.timing is None:
            raise SystemExit(measured.error)
        found[name] = 1 / measured.timing.median
    write_atomically(Path(path), json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], json.load(sys.stdin))
