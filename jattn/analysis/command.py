"""`python -m jattn analyze`: what the attention of a trained model does, and what training did to it.

    python -m jattn analyze --workdir=runs/digits
    python -m jattn analyze --workdir=runs/digits --layers=0,1 --heads=2 --examples=3,17
    python -m jattn analyze --workdir runs/softmax runs/neural --what=convergence

Numbers are printed and written with pictures to WORKDIR/analysis. docs/analysis.md says how each is defined, and
what it does and does not show.
"""

import argparse
from pathlib import Path

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

SEVERAL = ("convergence", "adaptive")
"""Those that lay several runs over one another."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--workdir", type=Path, nargs="+", required=True, metavar="DIR", help="folder of the run, or of several")
    known = "; ".join(f"{name}: {text}" for name, (_, text) in WHAT.items())
    add("--what", nargs="+", choices=WHAT, default=["patterns"], help=f"{known} (default: patterns)")
    add("--split", default="valid", help="train, valid or test (default: %(default)s)")
    add("--checkpoint", default="best", help="best, newest or a step (default: %(default)s)")
    add(
        "--examples", default="8", metavar="N", help="the first N of the split, or indices as in 3,17 (default: 8)"
    )  # fmt: skip
    add("--layers", metavar="I,J", help="indices of layers (default: all)")
    add("--heads", metavar="I,J", help="indices of heads (default: all)")
    add(
        "--timed-batches", type=int, default=0, metavar="N",
        help="adaptive: measure the time of N batches with and without spans (default: 0, not at all)",
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
    layers, heads = (parse_numbers(getattr(args, name), name) for name in ("layers", "heads"))
    selection = Selection(
        workdirs=tuple(args.workdir),
        split=args.split,
        checkpoint=int(args.checkpoint) if args.checkpoint.isdecimal() else args.checkpoint,
        chosen=args.examples,
        layers=None if layers is None else tuple(layers),
        heads=None if heads is None else tuple(heads),
        timed_batches=args.timed_batches,
        timed_lengths=tuple(parse_numbers(args.timed_lengths, "timed-lengths") or ()),
    )
    if 0 in selection.timed_lengths:
        raise UserError(f"--timed-lengths={args.timed_lengths} must be at least 1")
    if args.timed_batches < 0:
        raise UserError(f"--timed-batches={args.timed_batches} must be at least 0")
    if not isinstance(selection.checkpoint, int) and selection.checkpoint not in ("best", "newest"):
        raise UserError(f"--checkpoint={selection.checkpoint!r} is none: write best, newest or a step")
    for what in args.what:
        if len(selection.workdirs) > 1 and what not in SEVERAL:
            able = ", ".join(SEVERAL)
            raise UserError(f"--what={what} looks at one run: give one --workdir ({able} lay several over one another)")
        if what in SEVERAL and (layers is not None or heads is not None):
            raise UserError(f"--what={what} looks at whole runs: leave --layers and --heads out")
    selection.check_same_data()
    folder = args.out or selection.workdirs[0] / "analysis"
    for what in args.what:
        found = WHAT[what][0].report(selection)
        report.show(found)
        paths = report.write(found, folder, what, args.format)
        print(f"written to {folder}: {', '.join(path.name for path in paths)}")
    return 0
