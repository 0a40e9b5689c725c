"""`python -m jattn analyze`: what the attention of a trained model does, and what training did to it.

    python -m jattn analyze --workdir=runs/digits
    python -m jattn analyze --workdir=runs/digits --layers=0,1 --heads=2 --examples=3,17
    python -m jattn analyze --workdir runs/softmax runs/neural --what=convergence

Numbers are printed and written with pictures to WORKDIR/analysis. docs/analysis.md says how each is defined, and
what it does and does not show.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jattn import figures
from jattn.analysis import (
    of_adaptive,
    of_convergence,
    of_criticality,
    of_dynamics,
    of_energies,
    of_patterns,
    report,
)
from jattn.analysis.observe import parse_numbers
from jattn.analysis.selection import Selection
from jattn.errors import UserError

WHAT = {
    "patterns": (of_patterns, "how its heads attend: maps, statistics, similarity, rollout"),
    "dynamics": (of_dynamics, "the same statistics at each checkpoint"),
    "convergence": (of_convergence, "loss, perplexity, gradient norm and energy over training"),
    "adaptive": (of_adaptive, "what heads of adaptive span look at, and the work it saves"),
    "criticality": (of_criticality, "correlations, a sweep of temperature, cascades, spectra, growth of perturbations"),
    "energies": (of_energies, "attention energies against gradients and the empirical Fisher matrix, block by block"),
}
"""Analyses by name, and what each is about."""

SEEN = ("split", "checkpoint", "examples", "layers", "heads")

FOLLOWED = {
    "patterns": SEEN,
    "dynamics": ("split", "examples", "layers", "heads"),
    "convergence": (),
    "adaptive": ("checkpoint", "timed_batches", "timed_lengths"),
    "criticality": SEEN,
    "energies": ("split", "checkpoint", "examples"),
}
"""Of the options that an analysis may be given, those that it follows; any other is refused."""

SEVERAL = ("convergence", "adaptive")
"""Those that lay several runs over one another."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--workdir", type=Path, nargs="+", required=True, metavar="DIR", help="folder of the run, or of several")
    known = "; ".join(f"{name}: {text}" for name, (_, text) in WHAT.items())
    add("--what", nargs="+", choices=WHAT, default=["patterns"], help=f"{known} (default: patterns)")
    # None = not given: what is given has to be followed. The defaults are those of `Selection`.
    add("--split", help=f"train, valid or test (default: {Selection.split})")
    add("--checkpoint", help=f"best, newest or a step (default: {Selection.checkpoint})")
    add(
        "--examples", metavar="N",
        help=f"the first N of the split, or indices as in 3,17 (default: {Selection.chosen})",
    )  # fmt: skip
    add("--layers", metavar="I,J", help="indices of layers (default: all)")
    add("--heads", metavar="I,J", help="indices of heads (default: all)")
    add(
        "--timed-batches", type=int, metavar="N",
        help="adaptive: measure the time of N batches with and without spans (default: not at all)",
    )  # fmt: skip
    add(
        "--timed-lengths", metavar="N,N",
        help="adaptive: measure a forward pass of one sequence of so many tokens, of all runs in turn",
    )  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="where files are written (default: analysis in the first run's folder)")
    figures.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Does each analysis asked for; returns the exit code.

    Raises:
      UserError: what is asked for does not exist.
    """
    for what in args.what:
        _check_followed(what, args)
    selection = _selection(args)
    for what in args.what:
        if len(selection.workdirs) > 1 and what not in SEVERAL:
            able = ", ".join(SEVERAL)
            raise UserError(f"--what={what} looks at one run: give one --workdir ({able} lay several over one another)")
    selection.check_same_data()
    folder = args.out or selection.workdirs[0] / "analysis"
    for what in args.what:
        found = WHAT[what][0].report(selection)
        report.show(found)
        paths = report.write(found, folder, what, args.format)
        print(f"written to {folder}: {', '.join(path.name for path in paths)}")
    return 0


def _check_followed(what: str, args: argparse.Namespace) -> None:
    followed = FOLLOWED[what]
    if what == "adaptive" and args.timed_batches:
        followed += ("split",)  # of which the batches are
    given = [name for name in dict.fromkeys(sum(FOLLOWED.values(), ())) if getattr(args, name) is not None]
    if others := [name for name in given if name not in followed]:
        way_out = "leave that out" + (f", or give {what} a call of its own" if len(args.what) > 1 else "")
        raise UserError(f"--what={what} does not follow {_flags(others)}: {way_out} ({what} takes {_flags(followed)})")


def _flags(names: Sequence[str]) -> str:
    return " ".join("--" + name.replace("_", "-") for name in names) or "none of these options"


def _selection(args: argparse.Namespace) -> Selection:
    options: dict[str, Any] = {"split": args.split, "checkpoint": args.checkpoint, "chosen": args.examples}
    if args.checkpoint is not None and args.checkpoint.isdecimal():
        options["checkpoint"] = int(args.checkpoint)
    elif args.checkpoint not in (None, "best", "newest"):
        raise UserError(f"--checkpoint={args.checkpoint!r} is none: write best, newest or a step")
    for name in ("layers", "heads", "timed_lengths"):
        numbers = parse_numbers(getattr(args, name), name.replace("_", "-"))
        options[name] = None if numbers is None else tuple(numbers)
    if 0 in (options["timed_lengths"] or ()):
        raise UserError(f"--timed-lengths={args.timed_lengths} must be at least 1")
    if args.timed_batches is not None and args.timed_batches < 0:
        raise UserError(f"--timed-batches={args.timed_batches} must be at least 0")
    options["timed_batches"] = args.timed_batches
    given = {name: value for name, value in options.items() if value is not None}
    return Selection(workdirs=tuple(args.workdir), **given)
