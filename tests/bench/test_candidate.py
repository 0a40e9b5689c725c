"""What is measured, and what becomes of what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.bench import candidate
from jattn.bench.candidate import Candidate, Measured, compiled, measure, ratio, row
from jattn.bench.memory import available_bytes, limited
from jattn.bench.timing import Timing


def failing(error):
    def make():
        raise error

    return make


def test_failures_are_rows_and_the_others_are_measured():
    calls = []
    makers = {
        "huge": failing(MemoryError("needs 9 GB")),
        "device": failing(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")),
        "works": lambda: Candidate(lambda: calls.append(1), 3, 7, flops=5, items=11),
        "broken": failing(NotImplementedError("\n  no such thing\nmore")),
    }
    found = measure(makers, 4)
    assert list(found) == list(makers)
    rows = {name: row({"name": name}, measured, matmul_rate=100.0) for name, measured in found.items()}
    assert rows["huge"] == {"case": {"name": "huge"}, "error": "out of memory: needs 9 GB"}
    assert rows["device"]["error"].startswith("out of memory: RESOURCE_EXHAUSTED")
    assert rows["broken"]["error"] == "NotImplementedError: no such thing"
    assert len(calls) == 6  # one to see whether it runs, one to warm up, four timed
    works = rows["works"]
    assert (works["scratch_bytes"], works["peak_bytes"], works["repeats"], works["flops"]) == (3, 7, 4, 5)
    seconds = works["milliseconds"] / 1e3
    assert works["items_per_second"] == pytest.approx(11 / seconds)
    assert works["matmul_share"] == pytest.approx(5 / seconds / 100)


def test_a_candidate_that_fails_when_called_is_a_row():
    found = measure({"late": lambda: Candidate(failing(MemoryError("at last")), 0)}, 1)
    assert found["late"].error == "out of memory: at last"


def test_a_bug_is_no_row():
    with pytest.raises(TypeError, match="a bug"):
        measure({"wrong": failing(TypeError("a bug"))}, 1)


def test_what_does_not_fit_is_not_run(monkeypatch):
    x = jnp.ones((64, 64))
    product = lambda x: jnp.tanh(x @ x) @ x  # noqa: E731
    fits = compiled(product, x)
    assert fits.peak_bytes >= fits.scratch_bytes + 2 * x.nbytes
    monkeypatch.setattr(candidate, "available_bytes", lambda: x.nbytes - 1)
    with pytest.raises(MemoryError, match=r"needs 0\.0 GB"):
        compiled(product, x)


def test_ratios_are_of_the_reference_over_this():
    slow = Measured(Candidate(lambda: None, 60), Timing((4.0, 6.0, 8.0)))
    fast = Measured(Candidate(lambda: None, 20), Timing((2.0, 2.0, 2.0)))
    assert ratio(slow, fast) == {"speed": 3.0, "speed_quartiles": [2.5, 3.5], "scratch": 3.0}
    assert ratio(Measured(error="out of memory"), fast) is None


def test_memory_is_limited_and_then_no_more():
    if available_bytes() is None:
        pytest.skip("the system does not say how much memory is left")
    resource = pytest.importorskip("resource", reason="the system has no limits on processes")
    before = resource.getrlimit(resource.RLIMIT_AS)
    with limited(), pytest.raises(MemoryError):
        np.empty(available_bytes() + 2**30, np.uint8)  # never written to, so that it costs nothing where it is had
    assert resource.getrlimit(resource.RLIMIT_AS) == before
