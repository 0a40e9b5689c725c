"""Running the project's command lines in processes of their own, as a user does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]

QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
"""XLA's flags of all tests but some of command lines: programs are compiled in a quarter of the time."""


def session_folder(tmp_path_factory) -> Path:
    """A folder that all workers of this test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def compiled_folder(tmp_path_factory) -> Path:
    """Where this session's processes keep compiled programs: their JATTN_CACHE."""
    return session_folder(tmp_path_factory) / "compiled"


def environment(cache: Path) -> dict[str, str]:
    """Variables of a process on the CPU that keeps its compiled programs in `cache`."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "JATTN_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}


def as_users_compile() -> dict[str, str]:
    """The variable that gives a process XLA's flags without those of the tests."""
    return {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "").replace(QUICK_TO_COMPILE, "").strip()}


def start(cache: Path, script: str, *argv: str, **variables: str) -> subprocess.Popen:
    """A process of `script`, its standard output and standard error as pipes of text."""
    return subprocess.Popen(
        [sys.executable, script, *argv],
        cwd=ROOT,
        env=environment(cache) | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def start_all(cache: Path, lines: list[list[str]], **variables: str) -> subprocess.Popen:
    """A process that runs several command lines one after another: see `outcomes`."""
    return start(cache, "-m", "tests.one_after_another", json.dumps(lines), **variables)


def reached(process: subprocess.Popen, wanted: Callable[[str], bool]) -> None:
    """Reads what a process prints, up to the first line that is as wanted."""
    assert any(map(wanted, process.stdout)), process.communicate()[1]


def outcomes(process: subprocess.Popen, timeout: float | None = None) -> list[subprocess.CompletedProcess]:
    """What became of each command line of `start_all`, when it has ended."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return [subprocess.CompletedProcess(process.args, **outcome) for outcome in json.loads(output.splitlines()[-1])]


def run_all(cache: Path, lines: list[list[str]], **variables: str) -> list[subprocess.CompletedProcess]:
    """Outcomes of several command lines, run one after another by one process."""
    return outcomes(start_all(cache, lines, **variables))


def run(cache: Path, script: str, *argv: str, **variables: str) -> subprocess.CompletedProcess:
    """The finished process of `script`."""
    process = start(cache, script, *argv, **variables)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
