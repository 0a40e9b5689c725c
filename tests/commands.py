"""Running the project's command lines in processes of their own, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
"""XLA's flags of all tests but those of command lines: programs are compiled in a quarter of the time."""


def environment(cache: Path) -> dict[str, str]:
    """Variables of a process on the CPU that keeps its compiled programs in `cache`, XLA's flags being the user's."""
    flags = os.environ.get("XLA_FLAGS", "").replace(QUICK_TO_COMPILE, "").strip()
    common = {"JAX_PLATFORMS": "cpu", "JATTN_CACHE": str(cache), "PYTHONUNBUFFERED": "1", "XLA_FLAGS": flags}
    return os.environ | common


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


def run(cache: Path, script: str, *argv: str, **variables: str) -> subprocess.CompletedProcess:
    """The finished process of `script`."""
    process = start(cache, script, *argv, **variables)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
