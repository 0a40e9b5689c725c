"""Mixup and CutMix: what is mixed with what, and in which shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.data.augment.mixing import CutMix, Mixup, partner
from jattn.errors import UserError

KEY = jax.random.key(5)


def pictures(count, size=8):
    """Picture i has the value i + 1 everywhere."""
    return jnp.broadcast_to(jnp.arange(1, count + 1, dtype=jnp.uint8)[:, None, None, None], (count, size, size, 3))


def test_the_partner_is_the_next():
    assert partner(jnp.array([3, 1, 4])).tolist() == [1, 4, 3]


def test_mixup_averages_by_the_share():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8))
    mixed, own = jax.jit(Mixup(1.0))(images, partner(images), jnp.arange(6), KEY)
    pixels, share = np.asarray(images, float), np.asarray(own, float)[:, None, None, None]
    np.testing.assert_allclose(mixed, share * pixels + (1 - share) * np.roll(pixels, -1, axis=0), atol=1e-3)
    assert len(np.unique(own)) == 6


@pytest.mark.parametrize("alpha", [0.2, 1, 5.0])
def test_shares_follow_the_beta_distribution(alpha):
    images = jnp.zeros((3000, 1, 1, 3))
    own = np.asarray(jax.jit(Mixup(alpha))(images, images, jnp.arange(3000), KEY)[1])
    assert abs(own.mean() - 0.5) < 0.03
    assert abs(own.var() - 0.25 / (2 * alpha + 1)) < 0.01


def test_cutmix_takes_a_rectangle_and_counts_it():
    images = pictures(40, 16)
    mixed, own = jax.jit(CutMix())(images, partner(images), jnp.arange(40), KEY)
    assert mixed.dtype == np.uint8
    other = np.asarray(mixed) != np.asarray(images)
    np.testing.assert_array_equal(np.asarray(mixed)[other], np.broadcast_to(partner(images), mixed.shape)[other])
    np.testing.assert_allclose(own, 1 - other[..., 0].mean(axis=(1, 2)), atol=1e-6)
    for region in other[..., 0]:
        rows, columns = region.any(axis=1), region.any(axis=0)
        np.testing.assert_array_equal(region, rows[:, None] & columns[None])
        for side in (rows, columns):
            assert np.abs(np.diff(side.astype(int))).sum() <= 2  # one stretch
    assert 0.2 < np.mean(own) < 0.9
    assert len(np.unique(own)) > 20


def test_an_example_s_share_is_its_own():
    for mixture in (Mixup(), CutMix()):
        mix = jax.jit(lambda images, ids, key, mixture=mixture: mixture(images, images, ids, key))
        _, whole = mix(pictures(9), jnp.arange(9), KEY)
        _, part = mix(pictures(9)[3:6], jnp.arange(3, 6), KEY)
        np.testing.assert_allclose(part, whole[3:6], atol=1e-6)
        assert (mix(pictures(9), jnp.arange(9), jax.random.key(6))[1] != whole).any()


@pytest.mark.parametrize("cls", [Mixup, CutMix])
def test_values_out_of_range(cls):
    with pytest.raises(UserError, match=rf"option alpha=0 of {cls.__name__} must be 0.001 or more"):
        cls(alpha=0)
