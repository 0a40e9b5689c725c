"""Rotary positions against complex numbers, and the properties they are made for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention.rotary import rotate

B, H, T, D = 2, 3, 5, 14


@functools.partial(jax.jit, static_argnums=(1, 2))
def rotated(x, *options):
    return rotate(x, *options)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((B, H, T, D), np.float32)


@pytest.mark.parametrize(("offset", "base"), [(0, 10000.0), (11, 100)])
def test_features_are_points_of_the_plane_turned_by_their_position(x, offset, base):
    points = np.asarray(x[..., : D // 2], np.float64) + 1j * np.asarray(x[..., D // 2 :], np.float64)
    angles = (offset + np.arange(T))[:, None] * float(base) ** (-2 * np.arange(D // 2) / D)
    turned = points * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(rotated(x, offset, base), expected, atol=2e-6)


def test_a_quarter_turn():
    one = np.float32([1, 0]).reshape(1, 1, 1, 2)
    quarter = np.asarray(rotated(np.repeat(one, 3, axis=2), 0))[0, 0]
    np.testing.assert_allclose(quarter, [[np.cos(t), np.sin(t)] for t in range(3)], atol=1e-6)


def test_products_depend_on_the_difference_of_positions(x):
    q, k = x, x[::-1]
    near, far = (np.einsum("bhtd,bhsd->bhts", rotated(q, n), rotated(k, n)) for n in (0, 37))
    np.testing.assert_allclose(near, far, atol=1e-4)
    assert not np.allclose(near, np.einsum("bhtd,bhsd->bhts", q, k), atol=1e-1)


def test_the_offset_may_be_traced(x):
    later = jax.jit(rotate)(x[:, :, 2:], jnp.asarray(2))
    np.testing.assert_allclose(later, rotate(jnp.asarray(x))[:, :, 2:], atol=1e-6)


@pytest.mark.parametrize("offset", [0, 37, 5000])
def test_a_token_alone_is_turned_as_among_many(offset):
    x = np.random.default_rng(0).standard_normal((B, H, 197, D), np.float32)
    many = np.asarray(rotated(x, offset))
    angles = (offset + np.arange(197))[:, None] * 10000.0 ** (-2 * np.arange(D // 2) / D)
    first, second = np.asarray(x[..., : D // 2], np.float64), np.asarray(x[..., D // 2 :], np.float64)
    np.testing.assert_allclose(many[..., : D // 2], first * np.cos(angles) - second * np.sin(angles), atol=2e-3)
    turned = jax.jit(rotate)
    for t in (0, 63, 64, 130, 196):
        alone = turned(x[:, :, t : t + 1], jnp.asarray(offset + t))
        np.testing.assert_allclose(alone, many[:, :, t : t + 1], atol=2e-6)


def test_angles_are_exact_in_bfloat16_too(x):
    low = x.astype(jnp.bfloat16)
    turned = np.asarray(rotated(low, 4096))
    assert turned.dtype == jnp.bfloat16
    exact = rotated(low.astype(np.float32), 4096)
    np.testing.assert_allclose(turned.astype(np.float32), exact, atol=2e-2)


def test_an_odd_last_feature_stays_as_it_is(x):
    odd = np.concatenate([x, x[..., :1]], -1)
    np.testing.assert_array_equal(rotated(odd, 5), np.concatenate([rotated(x, 5), x[..., :1]], -1))
