"""Every test runs on the CPU unless it asks for a GPU, and never relies on implicit rank promotion.

Most of the time of most tests is XLA's, which compiles programs that then run for a millisecond. Without LLVM's
optimizations, and by an older emitter of fused loops, it gives the same numbers to rounding in a quarter of the time.
One run that is killed and resumed is compiled as users' runs are (`tests/training/test_resume.py`).
"""

import gc
import os

import jax
import pytest

from tests import typechecking  # noqa: F401 - before the package is imported: it says how that is checked
from tests.commands import QUICK_TO_COMPILE, compiled_folder

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_TO_COMPILE}".strip()


def pytest_configure(config):
    if "gpu" not in (config.option.markexpr or ""):
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    gc.set_threshold(50_000, 20, 100)  # tracing makes many objects, and few that refer to each other in circles


@pytest.fixture(autouse=True, scope="session")
def _programs_are_compiled_once(tmp_path_factory):
    """All of a session, by whichever worker: those that were forgotten are read again, as are those of tests alike."""
    jax.config.update("jax_compilation_cache_dir", str(compiled_folder(tmp_path_factory) / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


PROGRAMS_AT_ONCE = 1_650
"""That a process keeps: each takes a megabyte, and memory maps of its own, of which Linux allows 65,530."""

_compiled = []


def _count(event: str, seconds: float, **_: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_count)


@pytest.fixture(autouse=True)
def _compiled_programs_are_forgotten_in_time():
    """Not after each file: what JAX's own functions were traced to serves the next files, too."""
    yield
    if len(_compiled) > PROGRAMS_AT_ONCE:
        jax.clear_caches()
        _compiled.clear()


@pytest.fixture(scope="module")
def experiments_are_kept():
    """`setup.build` of a config is what it was before in the module, with programs that are traced and compiled.

    For modules that train or open runs of few configs many times. That a run built anew goes on as the same is shown
    by processes (`tests/training/test_resume.py`).
    """
    from jattn import config_json  # here: most modules, and the process that hands out tests, need neither
    from jattn.training import setup

    build, built = setup.build, {}

    def kept(config, dataset=None):
        text = config_json.to_json(config)
        if dataset is not None:
            return build(config, dataset)
        if text not in built:
            built[text] = build(config_json.from_json(text))
        return built[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "build", kept)
        yield


def pytest_collection_modifyitems(config, items):
    if "gpu" not in (config.option.markexpr or ""):
        needs_gpu = pytest.mark.skip(reason="needs an NVIDIA GPU: run `pytest -m gpu` on a machine that has one")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(needs_gpu)
