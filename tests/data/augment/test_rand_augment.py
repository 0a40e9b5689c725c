"""RandAugment's fourteen changes against PIL's."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jattn.data.augment.rand_augment import CHANGES, LEVELS, RandAugment, changed
from jattn.errors import UserError

SIZE = 24


def picture():
    """Smooth, of values from about 30 to 200, so that there is something to stretch."""
    coarse = np.random.default_rng(0).integers(30, 201, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def moved(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def by_pil(name, image, sign, magnitude):
    """The change as torchvision computes it, about a fraction of a pixel off its ties."""
    level = magnitude / (LEVELS - 1)
    shear, shift, factor = sign * 0.3 * level, sign * int(150 / 331 * SIZE * level), 1 + sign * 0.9 * level
    return {
        "identity": lambda: image,
        "shear_x": lambda: moved(image, 1, shear, 0, 0, 1, 0),
        "shear_y": lambda: moved(image, 1, 0, 0, shear, 1, 0),
        "translate_x": lambda: moved(image, 1, 0, -shift, 0, 1, 0),
        "translate_y": lambda: moved(image, 1, 0, 0, 0, 1, -shift),
        "rotate": lambda: image.rotate(sign * 30 * level),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(magnitude / 7.5)),
        "solarize": lambda: ImageOps.solarize(image, 255 * (1 - level)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(changed, static_argnums=3)


@pytest.mark.parametrize("magnitude", [9, 26])
def test_every_change_as_pil_does_it(compiled, magnitude):
    image = picture()
    differs = set()
    for number, name in enumerate(CHANGES):
        for sign in (1.0, -1.0):
            pixels = np.asarray(image, np.float32)
            found = np.asarray(compiled(pixels, np.asarray(number), np.float32(sign), magnitude))
            expected = np.asarray(by_pil(name, image, sign, magnitude)).astype(float)
            off = np.abs(found - expected).max(axis=-1) > 1
            # Of the nearest pixels a few are as near as another.
            assert off.mean() <= (0.03 if name in ("shear_x", "shear_y", "rotate") else 0), (name, sign, off.mean())
            if (expected != np.asarray(image)).any():
                differs.add(name)
    assert differs == set(CHANGES) - {"identity"}


def test_pictures_of_one_colour_stay(compiled):
    plain = np.full((SIZE, SIZE, 3), 77, np.float32)
    for name in ("autocontrast", "equalize", "contrast", "sharpness", "color"):
        found = compiled(plain, np.asarray(CHANGES.index(name)), np.float32(1), 9)
        np.testing.assert_array_equal(found, plain)


def test_as_many_changes_as_asked_for_each_drawn_from_all(compiled):
    image, count = np.asarray(picture()), 60
    images, ids, key = np.repeat(image[None], count, axis=0), np.arange(count), jax.random.key(0)
    names = {
        bytes(np.asarray(compiled(image.astype(np.float32), np.asarray(number), np.float32(sign), 9))): name
        for number, name in enumerate(CHANGES)
        for sign in (1, -1)
    }
    once, twice, never = (
        np.asarray(jax.jit(RandAugment(num_ops), static_argnums=3)(images, ids, key, SIZE)) for num_ops in (1, 2, 0)
    )
    drawn = [names.get(bytes(result)) for result in once]
    assert None not in drawn
    assert len(set(drawn)) > 10
    assert sum(bytes(result) in names for result in twice) < count / 2
    np.testing.assert_array_equal(never, images)


@pytest.mark.parametrize(("option", "value"), [("num_ops", -1), ("magnitude", 31)])
def test_values_out_of_range(option, value):
    with pytest.raises(UserError, match=f"option {option}={value} of RandAugment must be"):
        RandAugment(**{option: value})
