import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.errors import UserError
from jattn.models.positions import LearnedPositions, sinusoidal, sinusoidal_neural
from tests import calls


def rows(table, positions, width):
    return np.asarray(jax.jit(table, static_argnums=1)(positions, width))


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoidal_channels(width):
    table = np.zeros((13, width))
    for t in range(13):
        for c in range(0, width, 2):
            angle = t * 10000.0 ** (-c / width)
            table[t, c] = math.sin(angle)
            if c + 1 < width:
                table[t, c + 1] = math.cos(angle)
    np.testing.assert_allclose(rows(sinusoidal, np.arange(13), width), table, atol=2e-6)


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoidal_channels_as_released_with_neural_attention(width):
    table = np.zeros((13, width))
    for t in range(13):
        for i in range(0, width, 2):
            table[t, i] = math.sin(t / 10000.0 ** (2 * i / width))
            if i + 1 < width:
                table[t, i + 1] = math.cos(t / 10000.0 ** ((2 * i + 1) / width))
    np.testing.assert_allclose(rows(sinusoidal_neural, np.arange(13), width), table, atol=2e-6)


def test_sinusoids_depend_on_the_position_not_on_the_row():
    whole = rows(sinusoidal, np.arange(1024), 16)
    np.testing.assert_array_equal(rows(sinusoidal, np.asarray([1000, 3]), 16), whole[[1000, 3]])


def test_sinusoids_stay_accurate_far_out():
    angles = 5000 * 10000.0 ** (-np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(rows(sinusoidal, np.asarray([5000]), 16)[0, ::2], np.sin(angles), atol=5e-4)


def test_learned_positions_are_rows():
    table = LearnedPositions(max_length=5, width=3)
    params = calls.init(table, np.arange(2))["params"]
    assert params["embedding"].shape == (5, 3)
    found = calls.apply(table, {"params": params}, np.asarray([4, 1]))
    np.testing.assert_array_equal(found, params["embedding"][[4, 1]])


def test_a_learned_position_past_the_end_is_nan():
    table = LearnedPositions(max_length=5, width=3)
    found = calls.apply(table, calls.random_variables(table, np.arange(5)), np.asarray([4, 5]))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("max_length", [5, None])
def test_a_sequence_longer_than_the_table_is_refused(max_length):
    table = LearnedPositions(max_length=max_length, width=3)
    boxed = jax.eval_shape(table.init, jax.random.key(0), jnp.arange(5))
    for variables in (boxed, nn.unbox(boxed)):
        assert jax.eval_shape(table.apply, variables, jnp.arange(4)).shape == (4, 3)
        with pytest.raises(UserError, match="sequence of 6 tokens is longer than max_length 5"):
            jax.eval_shape(table.apply, variables, jnp.arange(6))
