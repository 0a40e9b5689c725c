"""Mixup and CutMix: what is mixed with what, and in which shares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.data.augment.mixing import CutMix, Mixup, partner
from jattn.errors import UserError

KEY = jax.random.key(5)
IDS = np.arange(3000)
IMAGES = np.random.default_rng(0).integers(0, 256, (3000, 2, 1, 3), np.uint8)

cutmix = jax.jit(CutMix())


@functools.cache
def mixup(alpha):
    return jax.jit(Mixup(alpha))


def pictures(count, size=8):
    """Picture i has the value i + 1 everywhere."""
    return np.broadcast_to(np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None], (count, size, size, 3))


def test_the_partner_is_the_next():
    assert partner(jnp.array([3, 1, 4])).tolist() == [1, 4, 3]


def test_mixup_averages_by_the_share():
    mixed, own = mixup(0.2)(IMAGES, np.roll(IMAGES, -1, axis=0), IDS, KEY)
    pixels, share = IMAGES.astype(float), np.asarray(own, float)[:, None, None, None]
    np.testing.assert_allclose(mixed, share * pixels + (1 - share) * np.roll(pixels, -1, axis=0), atol=1e-3)
    assert len(np.unique(own)) > 1000


@pytest.mark.parametrize("alpha", [0.2, 1, 5.0])
def test_shares_follow_the_beta_distribution(alpha):
    own = np.asarray(mixup(alpha)(IMAGES, IMAGES, IDS, KEY)[1])
    assert abs(own.mean() - 0.5) < 0.03
    assert abs(own.var() - 0.25 / (2 * alpha + 1)) < 0.01


def test_cutmix_takes_a_rectangle_and_counts_it():
    images = pictures(40, 16)
    others = np.roll(images, -1, axis=0)
    mixed, own = cutmix(images, others, IDS[:40], KEY)
    assert mixed.dtype == np.uint8
    other = np.asarray(mixed) != images
    np.testing.assert_array_equal(np.asarray(mixed)[other], others[other])
    np.testing.assert_allclose(own, 1 - other[..., 0].mean(axis=(1, 2)), atol=1e-6)
    for region in other[..., 0]:
        rows, columns = region.any(axis=1), region.any(axis=0)
        np.testing.assert_array_equal(region, rows[:, None] & columns[None])
        for side in (rows, columns):
            assert np.abs(np.diff(side.astype(int))).sum() <= 2  # one stretch
    assert 0.2 < np.mean(own) < 0.9
    assert len(np.unique(own)) > 20


def test_an_example_s_share_is_its_own():
    for mix, images in ((mixup(0.2), IMAGES), (cutmix, pictures(40, 16))):
        ids = IDS[: len(images)]
        _, whole = mix(images, images, ids, KEY)
        others = np.random.default_rng(1).choice(ids, len(ids))  # as many, so that one program does
        _, part = mix(images, images, others, KEY)
        np.testing.assert_allclose(part, np.asarray(whole)[others], atol=1e-6)
        assert (mix(images, images, ids, jax.random.key(6))[1] != whole).any()


@pytest.mark.parametrize("cls", [Mixup, CutMix])
def test_values_out_of_range(cls):
    with pytest.raises(UserError, match=rf"option alpha=0 of {cls.__name__} must be 0.001 or more"):
        cls(alpha=0)
