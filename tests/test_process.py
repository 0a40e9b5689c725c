"""What commands do to their own process."""

import os
import subprocess
import sys

import pytest

from tests import commands


def test_compiled_programs_are_kept_where_the_user_says(tmp_path):
    code = """
import os, sys, jax
from jattn import process
for home in [None, *sys.argv[1:]]:
    if home is not None:
        os.environ["JATTN_CACHE"] = home
        jax.config.update("jax_compilation_cache_dir", None)
    process.prepare_process()
    print(jax.config.jax_compilation_cache_dir)
"""

    def caches_of(*homes, **environment):
        """Where programs are kept as the environment stands, and with each JATTN_CACHE."""
        done = subprocess.run(
            [sys.executable, "-c", code, *homes], cwd=commands.ROOT, capture_output=True, text=True, check=True,
            env={k: v for k, v in os.environ.items() if "CACHE" not in k} | {"HOME": str(tmp_path)} | environment,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.splitlines()

    of_home, mine = str(tmp_path / ".cache" / "jattn" / "jax"), str(tmp_path / "mine")
    assert caches_of(mine, "/proc/nowhere") == [of_home, f"{mine}/jax", "None"]
    assert caches_of(JAX_COMPILATION_CACHE_DIR="/somewhere") == ["/somewhere"]  # which JAX reads when it is imported


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "1000000"}, False)])
def test_freed_memory_is_kept_unless_the_user_says_otherwise(environment, kept):
    code = """
import ctypes, resource
from jattn import process
process.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(200_000_000))
    ctypes.memset(block, 1, 200_000_000)
    libc.free(ctypes.c_void_p(block))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, second = faults(), faults()
print(second < first / 10)
"""
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name} | environment
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=commands.ROOT, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(kept)
