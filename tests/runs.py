"""Small finished runs that several tests look at: each is trained once a session."""

import contextlib
import fcntl
import importlib.util
import os
from pathlib import Path

import jax

from jattn.config import Config
from jattn.training import train

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py") if p.stem != "finetune")
"""Those that need no other run to begin with."""


def get_config(name: str, arg: str = "") -> Config:
    """What `--config=configs/<name>.py:<arg>` gives."""
    path = Path(__file__).parents[1] / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"configs_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def session_folder(tmp_path_factory) -> Path:
    """A folder that all workers of this test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def compiled_folder(tmp_path_factory) -> Path:
    """Where this session's processes keep compiled programs: their JATTN_CACHE."""
    return session_folder(tmp_path_factory) / "compiled"


@contextlib.contextmanager
def compiled_once(tmp_path_factory):
    """Programs compiled within are kept for the session: tests that train the same model compile it once."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(compiled_folder(tmp_path_factory) / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


def smoke_run(tmp_path_factory, name: str) -> Path:
    """The folder of a finished run of a config's smoke version; look at it, but copy it before you change it."""
    folder = session_folder(tmp_path_factory) / "smoke" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock, compiled_once(tmp_path_factory):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            train(get_config(name, "smoke"), folder / "run")
            (folder / "done").touch()
    return folder / "run"
