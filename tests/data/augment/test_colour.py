"""Colours and noise on the device against PIL, colorsys and NumPy."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from jattn.data.augment.colour import ColorJitter, GaussianNoise, hue_shifted, normalized
from jattn.errors import UserError

KEY, IDS = jax.random.key(7), jnp.array([4, 0, 900, 17, 2, 1], jnp.int32)


hues = jax.jit(hue_shifted)


def pictures(count=6):
    return np.random.default_rng(0).integers(0, 256, (count, 9, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("option", "enhancer", "slot"),
    [
        ("brightness", ImageEnhance.Brightness, 0),
        ("contrast", ImageEnhance.Contrast, 1),
        ("saturation", ImageEnhance.Color, 2),
    ],
)
def test_each_part_as_pil_does_it(option, enhancer, slot):
    found = jax.jit(ColorJitter(**{option: 0.8}), static_argnums=3)(pictures(), IDS, KEY, 9)
    factors = []
    for image, example_id, changed in zip(pictures(), IDS, found, strict=True):
        factors.append(
            1 + 0.8 * float(jax.random.uniform(jax.random.fold_in(KEY, example_id), (4,), minval=-1.0)[slot])
        )
        expected = np.asarray(enhancer(Image.fromarray(image)).enhance(factors[-1]))
        np.testing.assert_allclose(changed, expected, atol=2)  # PIL rounds the grey that it blends with
    assert min(factors) < 1 < max(factors)


@pytest.mark.parametrize("shift", [0.0, 0.1, -0.25, 0.5])
def test_hue_as_colorsys_has_it(shift):
    image = pictures(1)[0]
    image[0] = image[0, :, :1]  # grey pixels have no hue
    found = np.asarray(hues(image.astype(np.float32), np.float32(shift)))
    for pixel, moved in zip(image.reshape(-1, 3) / 255, found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(
            moved, 255 * np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)), atol=0.01
        )


def test_hue_is_drawn():
    found = jax.jit(ColorJitter(hue=0.2), static_argnums=3)(pictures(), IDS, KEY, 9)
    shift = np.float32(0.2) * np.asarray(jax.random.uniform(jax.random.fold_in(KEY, IDS[2]), (4,), minval=-1.0))[3]
    np.testing.assert_allclose(found[2], hues(pictures()[2].astype(np.float32), shift), atol=0.01)


def test_no_jitter():
    np.testing.assert_array_equal(jax.jit(ColorJitter(), static_argnums=3)(pictures(), IDS, KEY, 9), pictures())


def test_noise():
    grey = np.full((50, 20, 20, 3), 128, np.uint8)
    noise = np.asarray(jax.jit(GaussianNoise(0.1), static_argnums=3)(grey, np.arange(50), KEY, 20)) - 128
    assert abs(noise.mean()) < 0.6
    assert abs(noise.std() - 25.5) < 0.4
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.15
    np.testing.assert_array_equal(GaussianNoise(0)(jnp.asarray(grey), jnp.arange(50), KEY, 20), grey)


def test_noise_of_each_channel():
    grey = np.full((50, 20, 20, 3), 128, np.uint8)
    noise = np.asarray(jax.jit(GaussianNoise((0.1, 0.0, 0.2)), static_argnums=3)(grey, np.arange(50), KEY, 20)) - 128
    np.testing.assert_allclose(noise.std((0, 1, 2)), [25.5, 0, 51], atol=0.6)


def test_normalized():
    image = pictures()
    expected = (image / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 1])
    np.testing.assert_allclose(normalized(jnp.asarray(image), (0.1, 0.2, 0.3), (0.5, 0.25, 1)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (ColorJitter, {"brightness": -0.1}),
        (ColorJitter, {"hue": 0.6}),
        (GaussianNoise, {"std": -1}),
        (GaussianNoise, {"std": (0.1, 0.2)}),
    ],
)
def test_values_out_of_range(cls, options):
    with pytest.raises(UserError, match=f"option {next(iter(options))}=.* of {cls.__name__} must be"):
        cls(**options)
