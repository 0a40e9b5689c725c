"""`python -m jattn bench loop`: the time a training loop adds to the compiled step it calls.

The loop is `jattn.training.train` itself, with its data, logging and metrics; validation and checkpoints are left
out. The bare step is the same compiled function on one batch that already lies on the device. It runs before and after
every run of the loop, whose time is compared with the mean of the two: what the machine does besides changes from
second to second by more than the loop costs, and a drift cancels so.

A look at the attention (`logging.attention_every`) is measured by itself, between the two: rows of metrics in which the
loop looks are too few for a median to see it.
"""

import argparse
import contextlib
import io
import pathlib
import runpy
import tempfile
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jattn.bench import results
from jattn.bench.step import BareStep
from jattn.bench.timing import Timing, seconds_of
from jattn.config import CheckpointConfig, Config, LoggingConfig, ValidationConfig
from jattn.errors import UserError
from jattn.training import attention_log, setup, train
from jattn.training.metrics import read_csv

LOOK, LOOKS = "look at attention", 5
"""A part that is measured, and of how many calls a repetition takes the median."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--config", default="configs/digits_vit.py", help="whose model and data are used (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=200, help="of each repetition (default: %(default)s)")
    results.add_arguments(parser, repeats=9)


def run(args: argparse.Namespace) -> None:
    """Measures and prints a table.

    Raises:
      UserError: there is no such config, or fewer steps than two rows of metrics need.
    """
    results.check_arguments(args)
    config = _shortened(args.config, args.steps)
    experiment = setup.build(config)
    step, look = BareStep(experiment), attention_log.build(experiment)
    params = experiment.parallel.init_state().params
    seconds = {"bare step": [], "training loop": []} | ({} if look is None else {LOOK: []})
    if look is not None:
        look(params)  # compiles
    before = _seconds_per_step(step, args.steps, config.logging.every)
    for _ in range(args.repeats):
        seconds["training loop"].append(_loop_seconds_per_step(config))
        if look is not None:
            seconds[LOOK].append(float(np.median([seconds_of(lambda: look(params)) for _ in range(LOOKS)])))
        after = _seconds_per_step(step, args.steps, config.logging.every)
        seconds["bare step"].append((before + after) / 2)
        before = after
    timings = {name: Timing(tuple(values)) for name, values in seconds.items()}
    bare_time, loop_time = timings["bare step"], timings["training loop"]
    ratio, low, high = loop_time.ratio_to(bare_time)
    table = Table()
    for column in ("", "ms", "quartiles"):
        table.add_column(column, justify="right")
    for name, timing in timings.items():
        quartiles = " to ".join(f"{1e3 * value:.3f}" for value in timing.quartiles)
        table.add_row(name, f"{1e3 * timing.median:.3f}", quartiles)
    table.add_row("overhead", f"{ratio - 1:.1%}", f"{low - 1:.1%} to {high - 1:.1%}")
    if look is not None:
        share, low_share, high_share = (x / config.logging.attention_every for x in timings[LOOK].ratio_to(bare_time))
        of_look = f"looks, one in {config.logging.attention_every} steps"
        table.add_row(of_look, f"{share:.2%}", f"{low_share:.2%} to {high_share:.2%}")
    Console().print(table)
    if args.out is not None:
        case = {"config": args.config, "steps": args.steps}
        rows = [_row(case | {"part": name}, timing) for name, timing in timings.items()]
        if look is not None:
            rows[2]["share_of_step"] = {"every": config.logging.attention_every, "share": share}
            rows[2]["share_of_step"]["quartiles"] = [low_share, high_share]
        rows[1]["times_better_than"] = {"bare step": {"speed": 1 / ratio, "speed_quartiles": [1 / high, 1 / low]}}
        results.write(args.out, "loop", rows)


def _row(case: dict, timing: Timing) -> dict:
    return {
        "case": case,
        "milliseconds": 1e3 * timing.median,
        "milliseconds_quartiles": [1e3 * value for value in timing.quartiles],
        "repeats": len(timing.seconds),
    }


def _seconds_per_step(step: BareStep, steps: int, block: int) -> float:
    """Median over blocks of so many steps, each waited for as a whole."""
    blocks = []
    for _ in range(steps // block):
        start = time.perf_counter()
        for _ in range(block):
            state = step.run()
        jax.block_until_ready(state)
        blocks.append((time.perf_counter() - start) / block)
    return float(np.median(blocks))


def _loop_seconds_per_step(config: Config) -> float:
    """Median over the intervals between rows of metrics."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(config, pathlib.Path(folder) / "run")
        rates = read_csv(pathlib.Path(folder) / "run" / "timing.csv")["steps_per_second"]
    return float(np.median([1 / rate for rate in rates if rate is not None]))


def _shortened(path: str, steps: int) -> Config:
    """The config in a file, for so many steps, validated and saved only at the end."""
    if not pathlib.Path(path).is_file():
        raise UserError(f"there is no config file {path!r}: give the path of one, such as configs/digits_vit.py")
    config = runpy.run_path(path)["get_config"]()
    config.steps, config.epochs = steps, None
    if steps < 3 * config.logging.every:
        raise UserError(f"--steps={steps} is too short: at least {3 * config.logging.every} for {path}")
    config.validation = ValidationConfig(every=steps, batches=1)
    config.checkpoint = CheckpointConfig(every=steps)
    config.logging.attention_every = config.logging.attention_every or LoggingConfig.attention_every
    return config
