"""`python -m jattn verify FOLDER`: jattn against recorded cases of the released codes.

Every .npz in the folder is built with `jattn.interop.original.load`, run forward and backward through each
implementation of attention that can serve it, and compared with the recorded outputs (2e-5 absolute, 1e-4 relative)
and gradients (1e-4, or twenty times the released code's own rounding noise). The exit code is 1 if a case fails or
cannot be built.
"""

import argparse
import fnmatch
import pathlib
from collections.abc import Iterator

from jattn.errors import UserError
from jattn.verify import loss_terms, optimizer_cases
from jattn.verify.case import Recorded, read
from jattn.verify.check import Error, Result, check_call

__all__ = ["Error", "Recorded", "Result", "check", "read"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("folder", type=pathlib.Path, help="where the .npz files lie")
    parser.add_argument("--only", default="*", metavar="GLOB", help="names of the cases to run (default: all)")


def run(args: argparse.Namespace) -> int:
    """Prints a line for every case and implementation and a summary; returns the exit code.

    Raises:
      UserError: there is no such folder, or no such case in it.
    """
    if not args.folder.is_dir():
        raise UserError(f"there is no folder {str(args.folder)!r}: give one that holds recorded cases (.npz)")
    paths = sorted(path for path in args.folder.glob("*.npz") if fnmatch.fnmatch(path.stem, args.only))
    if not paths:
        raise UserError(f"{str(args.folder)!r} holds no case that matches {args.only!r}")
    width = max(len(path.name) for path in paths)
    failed, checks = [], 0
    for path in paths:
        results = list(_results(path))
        for result in results:
            print(line(result, width), flush=True)
        checks += len(results)
        if not all(result.holds for result in results):
            failed.append(path.name)
    print(f"{len(paths) - len(failed)} of {len(paths)} cases hold, in {checks} checks")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def check(recorded: Recorded, by_name: bool = True) -> Iterator[Result]:
    """The results of a case: of the implementation that is taken by default, with `by_name` of each that can compute
    it, and of what else is recorded."""
    if recorded.mechanism == optimizer_cases.OPTIMIZER:
        yield from optimizer_cases.check(recorded, by_name)
        return
    yield from check_call(recorded, by_name)
    for kind in (optimizer_cases.check_energy, loss_terms.check):
        yield from kind(recorded)


def line(result: Result, width: int) -> str:
    """What one line says of a result."""
    verdict = "ok    " if result.holds else "FAILED"
    start = f"{verdict} {result.case:{width}} {result.implementation:9}"
    if result.problem is not None:
        return f"{start} {result.problem}"
    errors = (("output", result.output), ("gradient", result.gradient))
    return start + "".join(
        f"  {name} {error.value:.1e} of {error.limit:.1e}" + ("" if error.holds else f" ({error.where})")
        for name, error in errors
        if error is not None
    )


def _results(path: pathlib.Path) -> list[Result]:
    try:
        return list(check(read(path)))
    except UserError as error:
        return [Result(path.name, "none", problem=str(error))]
