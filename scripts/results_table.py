"""Writes docs/results.md: every mechanism on digits and on python_docs, the same budget for all, several seeds.

    python scripts/results_table.py

Finished runs are kept under --runs and not repeated: remove the folder when the code has changed. Speeds are measured
at the end, the steps of all mechanisms in turn: leave the machine alone then. Nothing else depends on what it does.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import runpy
import sys

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jattn.attention import MECHANISMS  # noqa: E402
from jattn.bench.candidate import measure  # noqa: E402
from jattn.bench.step import BareStep  # noqa: E402
from jattn.bench.timing import Timing  # noqa: E402
from jattn.config import CheckpointConfig, Config, ValidationConfig  # noqa: E402
from jattn.evaluation import evaluate, write_results  # noqa: E402
from jattn.process import prepare_process  # noqa: E402
from jattn.training import setup, train  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One table: a config of `configs/` and what of its results is shown."""

    config: str
    title: str
    measure: str
    column: str
    factor: float
    causal: bool


EXPERIMENTS = (
    Experiment("digits_vit", "Vision Transformer on digits", "accuracy", "test accuracy, %", 100.0, False),
    Experiment("python_docs_lm", "language model on python_docs", "bits_per_byte", "test bits per byte", 1.0, True),
)

ABOUT = """\
All mechanisms of a table have the config's model (`configs/`), data order, optimizer and number of steps; nothing was
tuned for any of them, and numbers of parameters differ. The budgets are a few percent of what a model of this size can
use: the tables show that each mechanism trains, and what a step costs here. They do not rank mechanisms: three seeds
whose spread is as large as many differences, one small data set each. A comparison needs more seeds and an equal budget
of parameters or time. Speeds are those of the compiled training step, all mechanisms in turn, with the middle half of
the rounds.

Rows that agree digit for digit are the same function: `natural` is softmax attention that reports its energies, and
causal `local` with a window of n keys before the query is causal `neighborhood` with a kernel of n + 1.
"""


def main() -> None:
    """Runs what has not run yet, then writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of each mechanism (default: %(default)s)")
    parser.add_argument("--digits-steps", type=int, default=300, help="steps on digits (default: %(default)s)")
    parser.add_argument("--docs-steps", type=int, default=80, help="steps on python_docs (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each mechanism (default: %(default)s)")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "results", help="where the runs lie")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "results.md", help="the page")
    args = parser.parse_args()
    prepare_process()
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    budgets = {"digits_vit": args.digits_steps, "python_docs_lm": args.docs_steps}
    for experiment in EXPERIMENTS:
        steps = budgets[experiment.config]
        names = [name for name, module in MECHANISMS.items() if not (experiment.causal and "causal" in module.lacks)]
        rows = found[experiment.config] = {name: [] for name in names}
        for seed in range(args.seeds):  # seed by seed, so that a stop leaves every mechanism with as many
            for name in names:
                config = configured(experiment, name, seed, steps)
                rows[name].append(result(config, args.runs / f"{experiment.config}-{steps}" / name / str(seed)))
                value = experiment.factor * rows[name][-1][experiment.measure]
                print(f"{experiment.config} {name} seed {seed}: {value:.4g}", flush=True)
    print("measuring the speed of a step", flush=True)
    tables = []
    for experiment in EXPERIMENTS:
        steps, rows = budgets[experiment.config], found[experiment.config]
        tables.append(table(experiment, steps, rows, speeds(experiment, list(rows), steps, args.rounds)))
    args.out.write_text(page(tables))


def configured(experiment: Experiment, name: str, seed: int, steps: int) -> Config:
    """The config of one run: validated and saved at its end only."""
    config = runpy.run_path(str(ROOT / "configs" / f"{experiment.config}.py"))["get_config"](name)
    config.seed, config.steps, config.epochs = seed, steps, None
    config.validation, config.checkpoint = ValidationConfig(every=steps), CheckpointConfig(every=steps)
    config.logging.tensorboard, config.logging.every = False, 10
    return config


def result(config: Config, folder: pathlib.Path) -> dict[str, float]:
    """Measures of a run on the test split, and its size; it is trained if that has not been done."""
    if not (folder / "results.json").exists():
        train(config, folder)
        write_results(evaluate(folder, checkpoint="newest"), folder)
    measures = json.loads((folder / "results.json").read_text())["measures"]
    params = setup.build(config).parallel.abstract_state.params
    return measures | {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}


def speeds(experiment: Experiment, names: list[str], steps: int, rounds: int) -> dict[str, Timing]:
    """The time of a training step of each mechanism, all in turn."""
    makers = {
        name: lambda name=name: BareStep(setup.build(configured(experiment, name, 0, steps))).candidate()
        for name in names
    }
    found = measure(makers, rounds)
    for name, measured in found.items():
        if measured.error:
            raise SystemExit(f"error: {name}: {measured.error}")
    return {name: measured.timing for name, measured in found.items()}


def table(
    experiment: Experiment, steps: int, found: dict[str, list[dict[str, float]]], times: dict[str, Timing]
) -> str:
    """Means and spreads of one experiment, mechanisms in the order of `MECHANISMS`."""
    lines = [
        f"## {experiment.title[0].upper()}{experiment.title[1:]}, {steps} steps",
        "",
        f"| mechanism | options | {experiment.column}: mean | standard deviation | each seed | parameters | "
        "steps/s (quartiles) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        options = configured(experiment, name, 0, steps).model.attention.options
        values = [experiment.factor * row[experiment.measure] for row in rows]
        spread = f"{np.std(values, ddof=1):.2g}" if len(values) > 1 else "one seed"
        slow, fast = (1 / quartile for quartile in reversed(times[name].quartiles))
        cells = (
            f"`{name}`",
            f"`{options}`" if options else "",
            f"{np.mean(values):.4g}",
            spread,
            ", ".join(f"{value:.4g}" for value in values),
            f"{rows[0]['parameters']:,}",
            f"{1 / times[name].median:.3g} ({slow:.3g} to {fast:.3g})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(tables: list[str]) -> str:
    """The whole page."""
    command = " ".join(["python", "scripts/results_table.py", *sys.argv[1:]])
    where = f"{os.cpu_count()} CPU cores ({platform.machine()}), jax {jax.__version__}, {datetime.date.today()}"
    return "\n".join(
        (
            "# Results",
            "",
            f"Made by `{command}`",
            f"on {where}, float32.",
            *ABOUT.splitlines(),
            "",
            *("\n\n".join(tables)).splitlines(),
            "",
        )
    )


if __name__ == "__main__":
    main()
