"""`python -m jattn bench input CONFIG...`: how fast the data pipeline makes batches, and how fast a step uses them up.

    python -m jattn bench input configs/digits_vit.py configs/python_docs_lm.py --set data.batch_size=256

Three rows a config, in turn: batches from the data set's iterator, the same placed on the device, and the compiled
training step. Where a step takes longer than a placed batch, training does not wait for its data.
"""

import argparse
import contextlib
from typing import Any

import jax

from jattn import data
from jattn.bench import results, table
from jattn.bench.attention import measured_rows
from jattn.bench.candidate import Candidate
from jattn.bench.shapes import SHAPES
from jattn.bench.step import BareStep, config_of
from jattn.errors import UserError
from jattn.training import setup
from jattn.training.setup import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files, with :argument if they take one")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option as train.py's --config.NAME=VALUE"
    )
    parser.add_argument("--batches", type=int, default=20, help="of each repetition (default: %(default)s)")
    results.add_arguments(parser, repeats=9)


def run(args: argparse.Namespace) -> None:
    """Measures, prints a table, writes the JSON.

    Raises:
      UserError: a config is wrong, or --batches is below 1.
    """
    results.check_arguments(args)
    if args.batches < 1:
        raise UserError(f"--batches={args.batches}: a repetition needs at least 1 batch")
    rows = []
    for name in args.configs:
        if name in SHAPES:
            raise UserError(f"{name} is measured on random data and has no pipeline: give a config file")
        experiment = setup.build(config_of(name, args.set))
        size = experiment.config.data.batch_size
        case = {"config": name, "batch": size, "batches": args.batches}
        with contextlib.closing(_Pipeline(experiment)) as pipeline:
            step = BareStep(experiment)
            calls = {"batches": pipeline.batch, "placed": pipeline.placed, "step": step.run}
            makers = {
                tuple((case | {"part": part, "implementation": ""}).items()): _repeated(call, args.batches, size)
                for part, call in calls.items()
            }
            found = measured_rows(makers, args.repeats, None)
        for row in found:
            row.pop("times_better_than")
        rows += found
    table.show(table.console(), "input (ms for all batches of a repetition; items are examples)", rows)
    if args.out:
        results.write(args.out, "input", rows)


def _repeated(call: Any, count: int, batch_size: int) -> Any:
    def run() -> Any:
        for _ in range(count):
            last = call()
            jax.block_until_ready(last)
        return last

    return lambda: Candidate(run, 0, items=count * batch_size)


class _Pipeline:
    """The endless stream of an experiment's training batches, as the loop reads it."""

    def __init__(self, experiment: Experiment):
        config, dataset = experiment.config, experiment.dataset
        self._place = experiment.parallel.place
        make = lambda n: data.train_batch(dataset, config.seed, n, config.data.batch_size)  # noqa: E731
        self._batches = data.prefetched(make, 0, 2**31, config.data.prefetch)

    def batch(self) -> Any:
        """The next batch, on the host."""
        return next(self._batches)

    def placed(self) -> Any:
        """The next batch, on the device."""
        return self._place(self.batch())

    def close(self) -> None:
        """Ends what is made ahead."""
        self._batches.close()
