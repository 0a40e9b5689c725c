"""Tests of mechanisms compile many small programs once: XLA's optimizer would take longer than they do."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _unoptimized():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
