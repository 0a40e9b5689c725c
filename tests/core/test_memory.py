"""Scratch memory, as the compiled program states it."""

import jax
import jax.numpy as jnp
import pytest

from jattn.core import Causal, attend


def scratch(length, implementation):
    """Bytes besides inputs and outputs of forward + backward at B1 H8 D64, causal, float32."""

    def train(q, k, v, cotangent):
        out, pull = jax.vjp(lambda *x: attend(*x, bias=Causal(), implementation=implementation)[0], q, k, v)
        return out, pull(cotangent)

    x = jax.ShapeDtypeStruct((1, 8, length, 64), jnp.float32)
    return jax.jit(train).lower(x, x, x, x).compile().memory_analysis().temp_size_in_bytes


def test_blockwise_takes_a_sixteenth_of_dense():
    assert scratch(1024, "blockwise") * 16 <= scratch(1024, "dense")


@pytest.mark.parametrize(("length", "megabytes"), [(8192, 10)])
def test_scratch_grows_with_the_length_not_its_square(length, megabytes):
    assert scratch(length, "blockwise") < megabytes * 1e6
