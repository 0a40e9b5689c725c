"""`python -m jattn`: the tools around training."""

import argparse
import re
import sys
from typing import Any

from jattn import cli, generate, verify
from jattn.analysis import command as analyze
from jattn.bench import attention, gpu, loop, pipeline, report, step, targets
from jattn.compare import command as compare
from jattn.data import get, listing
from jattn.interop import command as import_command
from jattn.process import prepare_process
from jattn.report import command as report_page

BENCHMARKS = {
    "attention": (attention, "time and memory of the attention core and of every mechanism"),
    "step": (step, "time and memory of whole training steps"),
    "targets": (targets, "the project's goals, each against its PyTorch peer"),
    "gpu": (gpu, "the fused attention kernels on an NVIDIA GPU: errors, times, block sizes"),
    "loop": (loop, "time that the training loop adds to the compiled step"),
    "input": (pipeline, "batches a second of the data pipeline, and of the step that uses them"),
    "report": (report, "tables, plots and comparisons of what the others wrote"),
}

DATA = {
    "get": (get, "download a data set and prepare it"),
    "list": (listing, "which data sets are on this machine, where and how large"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m jattn", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    bench = commands.add_parser("bench", help="measure speed and memory on this machine")
    kinds = bench.add_subparsers(dest="benchmark", required=True, metavar="benchmark")
    for name, (module, text) in BENCHMARKS.items():
        _add(kinds, name, module, text)
    _add(commands, "generate", generate, "text from a trained language model")
    _add(commands, "analyze", analyze, "what the attention of a trained model does")
    _add(commands, "compare", compare, "run a grid of cells and seeds, and say what their differences show")
    _add(commands, "report", report_page, "a comparison, or runs, as one HTML page")
    data = commands.add_parser("data", help="get data sets, list those that are there")
    actions = data.add_subparsers(dest="action", required=True, metavar="action")
    for name, (module, text) in DATA.items():
        _add(actions, name, module, text)
    _add(commands, "verify", verify, "compare jattn with recorded cases of the released codes")
    _add(commands, "import", import_command, "read GPT-2 or a ViT of timm, to train it further or evaluate it")
    return top


def _add(commands: Any, name: str, module: Any, text: str) -> None:
    options = commands.add_parser(
        name, help=text, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(options)
    options.set_defaults(run=module.run)


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, those in `overrides` that are train.py's --config.NAME=VALUE, if the command takes them."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    args.overrides = [word for word in rest if re.match(r"--?(no)?config\.", word)]
    if len(args.overrides) < len(rest) or (rest and not getattr(args, "takes_overrides", False)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; a user's mistake is one sentence and exit code 2."""
    args = _parsed(argv)
    prepare_process()
    return cli.exit_code(lambda: args.run(args) or 0)


if __name__ == "__main__":
    sys.exit(main())
