"""What every command does to its own process before it computes."""

import ctypes
import os
import sys
from pathlib import Path

from absl import logging

# Options of mallopt, from malloc.h: values are of type int. Blocks of up to 1 GiB come from the heap, whose free end
# stays up to 2 GiB long, in one arena: those of other threads hold 64 MiB at most.
_MALLOPT = {"M_MMAP_THRESHOLD": (-3, 2**30), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_ARENA_MAX": (-8, 1)}


def prepare_process() -> None:
    """Quiet libraries, memory kept from step to step, compiled programs from process to process.

    To be called before jax makes its threads. Programs are kept in $JATTN_CACHE, or ~/.cache/jattn;
    JAX_COMPILATION_CACHE_DIR overrides both.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.ERROR)  # orbax warns of what is as it should be
    keep_freed_memory()
    import jax  # here, so that its messages are quiet

    if jax.config.jax_compilation_cache_dir is not None:
        return
    cache = cache_folder("jax")
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home costs some seconds a run, not the run
    if os.access(cache, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def cache_folder(name: str) -> Path:
    """Where what can be made again is kept: `name` in $JATTN_CACHE, or in ~/.cache/jattn. It may not exist yet."""
    home = os.environ["JATTN_CACHE"] if "JATTN_CACHE" in os.environ else Path.home() / ".cache" / "jattn"
    return Path(home) / name


def keep_freed_memory() -> None:
    """Lets glibc keep what a step has freed for the next one, unless the environment sets MALLOC_... of its own.

    XLA for CPUs allocates a program's scratch memory as one block at each run. glibc otherwise returns such blocks to
    the system and gets them anew page by page, which took a third of the time of a step of ViT-Tiny.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    for option, value in _MALLOPT.values():
        libc.mallopt(option, value)
