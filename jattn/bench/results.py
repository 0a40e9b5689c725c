"""Files of results: what was measured, on what, of which state of the code, by which command."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import flax
import jax
import jaxlib

import jattn
from jattn.errors import UserError

FORMAT = 1


def add_arguments(parser: argparse.ArgumentParser, *, repeats: int) -> None:
    """The options that all benchmarks have."""
    parser.add_argument("--repeats", type=int, default=repeats, help="timed rounds (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for the results")


def check_arguments(args: argparse.Namespace) -> None:
    """Raises UserError for what would only be noticed after the measurement."""
    if args.repeats < 1:
        raise UserError(f"--repeats={args.repeats}: a measurement needs at least 1 round")
    if args.out is not None and not args.out.parent.is_dir():
        raise UserError(f"--out={args.out}: there is no folder {args.out.parent}, make it first")


def write(path: pathlib.Path, benchmark: str, rows: list[dict[str, Any]], **further: Any) -> None:
    """A file of rows (see `jattn.bench.candidate.row`), with all that a result depends on besides."""
    result = {
        "format": FORMAT,
        "benchmark": benchmark,
        "command": " ".join(["python -m jattn", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        **further,
        "rows": rows,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def read(path: pathlib.Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    try:
        result = json.loads(path.read_text())
    except OSError:
        raise UserError(f"there is no file {str(path)!r}: give what --out of a benchmark wrote") from None
    except ValueError as error:
        raise UserError(f"{path} is no file of results ({error}): give what --out of a benchmark wrote") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise UserError(f"{path} is no file of results of format {FORMAT}: measure again with --out={path}")
    return result


def commit() -> dict[str, Any] | None:
    """The state of the code: its commit, and whether files differ from it; None where it lies in no repository."""
    folder = pathlib.Path(jattn.__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=folder, capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    name = found.stdout.strip()
    return {"hash": name.removesuffix("-dirty"), "dirty": name.endswith("-dirty")}


def machine() -> dict[str, Any]:
    """What a result depends on besides the code."""
    devices = jax.devices()
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "platform": devices[0].platform,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the libraries that compute."""
    found = {
        "python": platform.python_version(),
        "jattn": jattn.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
    }
    if "torch" in sys.modules:
        found["torch"] = str(sys.modules["torch"].__version__)
    return found


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
