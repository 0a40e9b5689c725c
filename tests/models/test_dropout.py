"""Dropout of features: fair, unbiased, another one for every call, example, token and feature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.models.dropout import Dropout
from tests import calls


def dropped(x, rate, seed=0):
    return calls.apply(Dropout(rate), {}, x, deterministic=False, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_what_stays_is_divided_by_its_share(rate):
    y = dropped(jnp.ones((7, 53, 41)), rate)
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    for axes in ((0, 1, 2), (1, 2), (0, 2), (0, 1)):  # everywhere, and for each example, token and feature
        mean, count = kept.mean(axes), kept.size / max(np.size(kept.mean(axes)), 1)
        assert np.all(abs(mean - (1 - rate)) <= 5 * np.sqrt(rate * (1 - rate) / count))


def test_examples_tokens_and_seeds_differ():
    first, second = (dropped(jnp.ones((2, 2, 4000)), 0.5, seed) != 0 for seed in (0, 1))
    rows = np.concatenate([first.reshape(4, -1), second.reshape(4, -1)])
    assert np.all(abs(np.corrcoef(rows) - np.eye(8)) < 5 / 4000**0.5)


def test_nothing_is_drawn_where_nothing_is_dropped():
    x = jnp.ones((2, 3, 5))
    assert Dropout(0.5).apply({}, x, deterministic=True) is x
    assert Dropout(0.0).apply({}, x, deterministic=False) is x


def test_gradients_pass_where_features_stay():
    x = jnp.ones((2, 3, 50))

    def call(x):
        return Dropout(0.25).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})

    y, gradient = jax.jit(lambda x: (call(x), jax.grad(lambda x: call(x).sum())(x)))(x)
    np.testing.assert_array_equal(gradient, y)


def test_a_bfloat16_feature_stays_one():
    assert dropped(jnp.ones((2, 3, 5), jnp.bfloat16), 0.1).dtype == jnp.bfloat16
