"""`python -m jattn compare`: a grid of runs with everything else equal, and what their differences show.

    python -m jattn compare configs/digits_vit.py --axis arg=softmax,neural,local --seeds 8
    python -m jattn compare configs/digits_vit.py --axis "model.attention.name=softmax,kvt(topk=8)" --match params
    python -m jattn compare configs/python_docs_lm.py --axis model.width=64,96 --axis model.depth=2,4 --budget tokens

Each cell, one value of every axis, runs with seeds 0, 1, ...: the same batches in the same order, the same initial
values of parameters of the same name and shape, the same budget. The runs are ordinary runs, DIR/CELL/seedN.
The same command continues a comparison that was stopped; more seeds or values may be asked for later.
docs/comparing.md says what the numbers mean.

An axis is an option of jattn/config.py, or `arg`, which varies the word after the colon of CONFIG. Commas inside of
brackets or quotes do not separate values; if a value holds other commas, separate all by semicolons:
--axis "arg=super,keras; softmax,keras". --config.NAME=VALUE holds for all cells.
"""

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jattn import cli, data, figures
from jattn.bench import table as bench_table
from jattn.compare import budget as budgets
from jattn.compare import files, matching, pictures, report, runs, speed, table
from jattn.compare.grid import Cell, cells, check_equal, parse_axis
from jattn.config import Config
from jattn.data import Dataset
from jattn.errors import UserError, unknown
from jattn.training import losses, measures, setup
from jattn.training.run import explained
from jattn.training.wandb_log import check_wandb

SPEEDS = "speeds.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("config", metavar="CONFIG", help="a config file, with :argument if it takes one")
    add("--axis", action="append", default=[], metavar="NAME=VALUE,...", help="what varies; several make a grid")
    add("--seeds", type=int, default=5, metavar="N", help="runs of each cell, seeds 0 to N - 1 (default: %(default)s)")
    add("--baseline", metavar="CELL", help="the cell that the others are compared with (default: the first)")
    add(
        "--match", choices=matching.QUANTITIES, help="adapt the mlp's width so that models are as large as the baseline"
    )
    add(
        "--budget", default="steps", metavar="UNIT[=N]",
        help="what each run gets: steps, tokens or seconds (at the speed of its step, measured first); without N, "
        "as many as the baseline's config asks for (default: %(default)s)",
    )  # fmt: skip
    add("--measure", metavar="NAME", help="what is compared (default: accuracy, of language bits_per_byte or loss)")
    add("--split", default="test", help="train, valid or test (default: %(default)s)")
    add("--checkpoint", choices=("best", "newest"), default="best", help="which is evaluated (default: %(default)s)")
    add(
        "--threshold", type=float, metavar="X",
        help="validation value, as in metrics.csv, to which steps are counted (default: what all runs of the baseline "
        "reach)",
    )  # fmt: skip
    add(
        "--speeds", action="store_true",
        help="when the runs are done, time the training step of all cells in turn: leave the machine alone then "
        "(default: the speeds are those of the runs)",
    )  # fmt: skip
    add("--jobs", type=int, default=1, metavar="N", help="processes at a time, of several GPUs one each (default: 1)")
    add("--workdir", type=Path, metavar="DIR", help="folder of it all (default: runs/compare-CONFIG)")
    figures.add_arguments(parser)
    add(
        "--no-page", action="store_true",
        help="do not write the page of `python -m jattn report`, whose maps of attention take some seconds a cell",
    )  # fmt: skip
    parser.set_defaults(takes_overrides=True)


class Plan(NamedTuple):
    """What is to be run, and what is asked of it.

    Attributes:
      cells: of the grid, matched and of equal budget.
      steps, sizes: of each cell, by name.
      question: see `report.Question`.
      notes: what was adapted.
    """

    cells: list[Cell]
    steps: dict[str, int]
    sizes: dict[str, matching.Size]
    question: report.Question
    notes: list[str]


def run(args: argparse.Namespace) -> int:
    """Does the runs that are missing, prints the tables, writes the files; returns the exit code.

    Raises:
      UserError: what is asked for does not exist or does not compare, found before any run begins.
    """
    _leave_devices_to_the_runs()
    folder = args.workdir or Path("runs") / f"compare-{cli.default_workdir(args.config).name}"
    try:
        plan = _plan(args, folder)
        jobs = runs.make_jobs(plan.cells, range(args.seeds), folder, args.split, args.checkpoint)
        _make(folder)
        heading = _heading(args, plan)
        for line in (heading, *plan.notes):
            _say(line)
        describe = lambda outcome: _described(outcome, plan.question.measure)  # noqa: E731
        outcomes = runs.run_all(jobs, args.jobs, runs.worker_command, _say, describe)
        if args.speeds:
            _say(f"timing the training step of {_counted(len(plan.cells), 'cell')}")
        speeds = speed.measured(plan.cells) if args.speeds else None
    except KeyboardInterrupt:
        return cli.INTERRUPTED
    about: dict[str, Any] = {
        "argv": sys.argv[1:],
        "heading": heading,
        "config": args.config,
        "overrides": args.overrides,
        "axes": {axis.name: axis.values for axis in map(parse_axis, args.axis)},
        "seeds": list(range(args.seeds)),
        "budget": args.budget,
        "steps": plan.steps,
        "match": args.match,
        "split": args.split,
        "checkpoint": args.checkpoint,
        "jobs": args.jobs,
        "notes": plan.notes,
    }
    found = report.build(outcomes, plan.sizes, plan.question, about, speeds)
    paths = [*files.write(folder, found), *pictures.draw(folder, found, args.format)]
    table.show(bench_table.console(), found)
    _say(f"written to {', '.join(map(str, paths))}")
    if args.no_page:
        return 0
    try:
        return subprocess.run(runs.page_command(folder), check=False).returncode
    except KeyboardInterrupt:
        return cli.INTERRUPTED


def _plan(args: argparse.Namespace, folder: Path) -> Plan:
    """Everything that can be wrong is found here; only a budget of seconds computes, and writes, before that is all."""
    if args.seeds < 1:
        raise UserError(f"--seeds={args.seeds} must be at least 1")
    runs.places(args.jobs)
    budget = budgets.parse_budget(args.budget)
    grid = cells(args.config, [parse_axis(text) for text in args.axis], args.overrides)
    baseline = _baseline(grid, args.baseline)
    dataset = data.build(baseline.config.data)
    dataset.check_split(args.split)
    measure = _measure(args.measure, baseline.config, dataset, args.split)
    question = report.Question(measure, baseline.name, args.threshold)
    if question.curve == "loss":
        check_equal(grid, ["loss.name"])
    notes: list[str] = []
    if args.match:
        grid, notes = matching.matched(grid, baseline, args.match, dataset)
    for cell in grid:
        _check(cell.config, dataset)

    def measured(some: Sequence[Cell]) -> dict[str, float]:
        _make(folder)
        return speed.steps_per_second(some, folder / SPEEDS)

    grid = budgets.budgeted(grid, baseline, budget, dataset, measured)
    steps = {cell.name: setup.make_plan(cell.config, dataset.size("train")).total for cell in grid}
    sizes = {cell.name: matching.size_of(cell.config, dataset) for cell in grid}
    return Plan(grid, steps, sizes, question, notes)


def _make(folder: Path) -> None:
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _leave_devices_to_the_runs() -> None:
    """This process only counts: on a GPU it would keep its memory from the runs."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _baseline(grid: list[Cell], name: str | None) -> Cell:
    if name is None:
        return grid[0]
    by_name = {cell.name: cell for cell in grid}
    if name not in by_name:
        raise unknown("baseline", name, by_name)
    return by_name[name]


def _check(config: Config, dataset: Dataset) -> None:
    """Raises what a run would raise at its beginning, but for what depends on its devices or on init_from's folder."""
    check_wandb(config.logging.wandb)
    parallel = dataclasses.replace(config.parallel, data=1, model=1)
    model = config.model
    if model.implementation == "cudnn" and runs.gpus():
        model = dataclasses.replace(model, implementation=None)  # this process sees no GPU, the runs do
    setup.build(dataclasses.replace(config, parallel=parallel, model=model), dataset)


def _measure(name: str | None, config: Config, dataset: Dataset, split: str) -> str:
    """The measure asked for, or the usual one of the task."""
    task = dataset.task_of(split)
    known = measures.names(losses.measured(config.loss, dataset.task), task)
    if name is None:
        name = "accuracy" if task.kind != "language" else "bits_per_byte" if "bits_per_byte" in known else "loss"
    if name not in known:
        raise unknown("measure", name, known)
    return name


def _heading(args: argparse.Namespace, plan: Plan) -> str:
    steps = sorted(set(plan.steps.values()))
    length = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    return (
        f"{args.config}: {_counted(len(plan.cells), 'cell')} x {_counted(args.seeds, 'seed')}, {length} steps each, "
        f"evaluated on {args.split} with the {args.checkpoint} checkpoint"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _described(outcome: runs.Outcome, measure: str) -> str:
    if outcome.failure:
        return f"FAILED: {outcome.failure} (see {outcome.job.log})"
    return table.describe(measure, outcome.measures)


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False, markup=False)
