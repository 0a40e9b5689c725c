"""`python -m jattn bench input CONFIG...`: how fast the data pipeline makes batches, and how fast a step uses them up.

    python -m jattn bench input configs/digits_vit.py configs/python_docs_lm.py --set data.batch_size=256
    python -m jattn bench input --made configs/convnn_vit.py configs/convnn_vit.py:imagenet --set data.batch_size=64

With --made, pictures that would be read from files are made up (`jattn/bench/made_pictures.py`): CIFAR's 60,000, or
20,000 training JPEGs of 500 x 375 pixels in ImageNet's folders.

Before anything is measured, the time is printed that it takes until the first batch is there: to find, read and where
needed decode files, and once more, when what is prepared once lies on disk.

Rows of a config, in turn: batches from the data set's iterator, the same placed on the device, and the compiled
training step (`--parts`). Where a step takes longer than a placed batch, training does not wait for its data.
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jattn import data
from jattn.bench import results, table
from jattn.bench.attention import measured_rows
from jattn.bench.candidate import Candidate
from jattn.bench.made_pictures import made
from jattn.bench.shapes import SHAPES
from jattn.bench.step import BareStep, config_of
from jattn.config import Config
from jattn.errors import UserError, unknown
from jattn.training import setup
from jattn.training.setup import Experiment

PARTS = ("batches", "placed", "step")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files, with :argument if they take one")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option as train.py's --config.NAME=VALUE"
    )
    parser.add_argument("--made", action="store_true", help="pictures in files are made up")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help=f"what to measure: some of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument("--batches", type=int, default=20, help="of each repetition (default: %(default)s)")
    results.add_arguments(parser, repeats=9)


def run(args: argparse.Namespace) -> None:
    """Measures, prints a table, writes the JSON.

    Raises:
      UserError: a config or one of the --parts is wrong, or --batches is below 1.
    """
    results.check_arguments(args)
    if args.batches < 1:
        raise UserError(f"--batches={args.batches}: a repetition needs at least 1 batch")
    parts = args.parts.split(",")
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    rows = []
    with tempfile.TemporaryDirectory() as folder, _caches_in(Path(folder, "cache") if args.made else None):
        for place, name in enumerate(args.configs):
            if name in SHAPES:
                raise UserError(f"{name} is measured on random data and has no pipeline: give a config file")
            config = config_of(name, args.set)
            if args.made:
                config.data = made(config.data, Path(folder, str(place)))
            rows += _measured(name, config, parts, args)
    table.show(table.console(), "input (ms for all batches of a repetition; items are examples)", rows)
    if args.out:
        results.write(args.out, "input", rows)


@contextlib.contextmanager
def _caches_in(folder: Path | None) -> Iterator[None]:
    """What is prepared of files that will be gone is not kept among that of others; None: it is where it always is."""
    names = ("JATTN_CACHE", "HF_DATASETS_CACHE") if folder else ()
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(folder / name) for name in names})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _measured(name: str, config: Config, parts: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one config."""
    size, seconds = config.data.batch_size, []
    for _ in range(2):
        dataset, begin = data.build(config.data), time.perf_counter()
        data.train_batch(dataset, config.seed, 0, size)
        seconds.append(time.perf_counter() - begin)
    print(f"{name}: the first batch was there after {seconds[0]:.2f} s, in another run {seconds[1]:.2f} s")
    experiment = setup.build(config, dataset)
    case = {"config": name, "batch": size, "batches": args.batches}
    with contextlib.closing(_Pipeline(experiment)) as pipeline:
        calls = {"batches": lambda: pipeline.batch, "placed": lambda: pipeline.placed}
        calls |= {"step": lambda: BareStep(experiment).run}  # compiled only if it is asked for
        makers = {
            tuple((case | {"part": part, "implementation": ""}).items()): _repeated(calls[part](), args.batches, size)
            for part in parts
        }
        found = measured_rows(makers, args.repeats, None)
    for row in found:
        row.pop("times_better_than")
    return found


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
