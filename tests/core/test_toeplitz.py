"""How a table of biases becomes a block: against brute force."""

import jax
import numpy as np
import pytest

from jattn.core.toeplitz import _sums_by_halves, _sums_by_scatter, diagonal_sums, toeplitz


@pytest.mark.parametrize(("t", "s"), [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1), (7, 7)])
def test_toeplitz_is_a_table_by_lag(t, s):
    window = np.arange(2 * (t + s - 1), dtype=np.float32).reshape(2, -1)
    expected = np.array([[[row[i - j + s - 1] for j in range(s)] for i in range(t)] for row in window])
    np.testing.assert_array_equal(jax.jit(toeplitz, static_argnums=(1, 2))(window, t, s), expected)


@pytest.mark.parametrize("sums", [diagonal_sums, _sums_by_scatter, _sums_by_halves])
@pytest.mark.parametrize(("t", "s"), [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1), (7, 7), (8, 8)])
def test_diagonal_sums_are_those_of_each_lag(sums, t, s):
    block = np.arange(1, 2 * t * s + 1, dtype=np.float32).reshape(2, t, s)
    expected = [[np.trace(half, offset=s - 1 - lag) for lag in range(t + s - 1)] for half in block]
    np.testing.assert_array_equal(jax.jit(sums)(block), expected)
