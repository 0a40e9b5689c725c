"""`python -m jattn report`: a comparison, or runs, as one HTML page.

    python -m jattn report --comparison=runs/compare-digits_vit
    python -m jattn report --workdir=runs/digits_vit --out=digits.html
    python -m jattn report --workdir runs/softmax runs/neural --no-attention

The page needs no network and no server: it may be sent, kept and opened from a file. It shows results, curves, what
differs and what that cost, the attention of every mechanism, configs, and the commands that repeat it all.
docs/report.md says more.
"""

import argparse
import datetime
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console

from jattn.analysis.observe import parse_numbers
from jattn.analysis.selection import Selection
from jattn.errors import UserError
from jattn.literals import parse_checkpoint
from jattn.report import drawn, page, shown
from jattn.training.run import write_atomically

PAGE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--comparison", type=Path, metavar="DIR", help="folder of a comparison")
    add("--workdir", type=Path, nargs="+", metavar="DIR", help="folder of a run, or of several")
    add("--out", type=Path, metavar="FILE", help=f"the page (default: {PAGE} in the first of these folders)")
    add("--no-attention", action="store_true", help="leave out what has to be computed from checkpoints")
    add("--seed", type=int, metavar="N", help="of a comparison: whose attention is shown (default: the first there is)")
    add("--tokens", type=int, default=64, metavar="N", help="of a map, at most (default: %(default)s)")
    add("--split", default="valid", help="whose examples: train, valid or test (default: %(default)s)")
    add("--checkpoint", default="best", help="best, newest or a step (default: %(default)s)")
    add("--examples", default="8", metavar="N", help="the first N of the split, or indices as in 3,17 (default: 8)")
    add("--layers", metavar="I,J", help="indices of layers (default: all)")
    add("--heads", metavar="I,J", help="indices of heads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Writes the page; returns the exit code.

    Raises:
      UserError: what is asked for does not exist, or the page cannot be written.
    """
    if (args.comparison is None) == (args.workdir is None):
        raise UserError("give either --comparison=DIR, a folder of `python -m jattn compare`, or --workdir=RUN")
    if args.tokens < 8:
        raise UserError(f"--tokens={args.tokens} must be at least 8")
    layers, heads = (parse_numbers(getattr(args, name), name) for name in ("layers", "heads"))
    selection = Selection(
        workdirs=(),
        split=args.split,
        checkpoint=parse_checkpoint(args.checkpoint),
        chosen=args.examples,
        layers=None if layers is None else tuple(layers),
        heads=None if heads is None else tuple(heads),
    )
    about = shown.of_runs(args.workdir) if args.comparison is None else shown.of_comparison(args.comparison)
    out = args.out or (args.comparison or args.workdir[0]) / PAGE
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {out.parent}, make it first")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(f"cannot write {out}: choose another --out")
    content = drawn.build(about)
    maps = {} if args.no_attention else drawn.with_attention(content, about, selection, args.seed, args.tokens, _say)
    command = shlex.join(["python", "-m", "jattn", *sys.argv[1:]])
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    text = page.written(about, content, maps, command, date)
    try:
        write_atomically(out, text)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error}): choose another --out") from error
    _say(f"written to {out}: {len(text.encode()) / 1e6:.2f} MB")
    return 0


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False, markup=False)
