"""Small finished runs that several tests look at: each is trained once a session."""

import contextlib
import importlib.util
from pathlib import Path

import jax

from jattn.config import Config
from jattn.training import train

CONFIGS = sorted(path.stem for path in (Path(__file__).parents[1] / "configs").glob("*.py"))


def get_config(name: str, arg: str = "") -> Config:
    """What `--config=configs/<name>.py:<arg>` gives."""
    path = Path(__file__).parents[1] / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"configs_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


@contextlib.contextmanager
def compiled_once(folder: Path):
    """Programs compiled within are kept in `folder`: tests that train the same model compile it once."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


def smoke_run(session: Path, name: str) -> Path:
    """The folder of a finished run of a config's smoke version; look at it, but copy it before you change it.

    Args:
      session: folder of the test session, `tmp_path_factory.getbasetemp()`.
      name: of the config.
    """
    folder = session / "smoke" / name
    if not folder.exists():
        with compiled_once(session / "compiled" / "jax"):
            train(get_config(name, "smoke"), folder)
    return folder
