"""Crops, flips and rotations on the device against NumPy and PIL."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jattn.data.augment.geometry import Flip, RandomCrop, RandomResizedCrop, Rotation, affine, resized, rotation
from jattn.errors import UserError

KEY, IDS = jax.random.key(3), jnp.array([4, 0, 900, 4, 17, 2, 1], jnp.int32)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def boxes(crop, keys, height, width):
    return jax.vmap(lambda key: jnp.stack(crop.box(key, height, width)))(keys)


def pictures(count=7, height=11, width=13):
    """Random but smooth pictures: every pixel differs, and neighbours are alike."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in coarse])


def test_resized_takes_the_middle_or_enlarges():
    images = pictures(2)
    assert resized(jnp.asarray(images), 7).dtype == np.uint8
    np.testing.assert_array_equal(resized(jnp.asarray(images), 7), images[:, 2:9, 3:10])
    enlarged = resized(jnp.asarray(images[:, :, :11]), 33)
    for image, large in zip(images[:, :, :11], enlarged, strict=True):
        expected = Image.fromarray(image).resize((33, 33), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(large, np.asarray(expected), atol=1.01)


@pytest.mark.parametrize(("size", "padding"), [(8, 0), (8, 2), (11, 3), (32, 1)])
def test_random_crop_is_a_part_of_the_framed_picture(size, padding):
    images = pictures()
    found = np.asarray(jax.jit(RandomCrop(padding), static_argnums=3)(images, IDS, KEY, size))
    height, width = min(size, 11), min(size, 13)
    assert (found.shape, found.dtype) == ((7, height, width, 3), np.uint8)
    corners = set()
    for image, part in zip(images, found, strict=True):
        framed = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(framed, (height, width, 3))[:, :, 0]
        places = np.argwhere((windows == part).all(axis=(2, 3, 4)))
        assert len(places) == 1
        corners.add(tuple(places[0].tolist()))
    assert len(corners) > 2


def test_flip():
    images = np.repeat(pictures(1), 400, axis=0)
    found = np.asarray(jax.jit(Flip(), static_argnums=3)(images, np.arange(400), KEY, 8))
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (found == images).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert abs(mirrored.sum() - 200) < 50
    for probability, expected in ((0, images), (1, images[:, :, ::-1])):
        np.testing.assert_array_equal(Flip(probability)(jnp.asarray(images), jnp.arange(400), KEY, 8), expected)


@pytest.mark.parametrize("size", [6, 11, 20])
def test_random_resized_crop_resizes_its_box_as_pil_does(size):
    images = pictures()
    crop = RandomResizedCrop(scale=(0.2, 0.9))
    found = jax.jit(crop, static_argnums=3)(images, IDS, KEY, size)
    assert found.shape == (7, size, size, 3)
    keys = jnp.stack([jax.random.fold_in(KEY, example_id) for example_id in IDS])
    for image, of_box, part in zip(images, np.asarray(boxes(crop, keys, 11, 13)).tolist(), found, strict=True):
        top, left, height, width = of_box
        box = (left, top, left + width, top + height)
        expected = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
        np.testing.assert_allclose(part, np.asarray(expected), atol=1.5)


def test_boxes_have_the_areas_and_shapes_asked_for():
    crop = RandomResizedCrop(scale=(0.1, 0.5), ratio=(0.5, 2.0))
    keys = jax.random.split(KEY, 2000)
    top, left, height, width = np.asarray(boxes(crop, keys, 200, 300)).T
    assert ((top >= 0) & (left >= 0) & (top + height <= 200) & (left + width <= 300)).all()
    share, shape = height * width / 60_000, width / height
    assert 0.09 < share.min() < 0.11
    assert 0.45 < share.max() < 0.51
    assert abs(share.mean() - 0.3) < 0.02
    assert 0.49 < shape.min() < 0.55
    assert 1.9 < shape.max() < 2.03
    assert abs(np.log(shape).mean()) < 0.1
    room = left[width < 299] / (300 - width[width < 299])
    assert abs(room.mean() - 0.5) < 0.03


def test_where_no_box_fits_the_largest_middle_part_is_taken():
    crop = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert boxes(crop, KEY[None], 10, 30).tolist() == [[0, 10, 10, 10]]
    assert boxes(crop, KEY[None], 30, 10).tolist() == [[10, 0, 10, 10]]


@functools.partial(jax.jit, static_argnums=2)
def turned(image, angle, order):
    return affine(image, rotation(angle), order)


@pytest.mark.parametrize("degrees", [0, 7, 90, -33])
def test_rotation_as_pil_turns(degrees):
    image = pictures(1, 21, 21)[0]
    for order, resample, atol in ((1, Image.Resampling.BILINEAR, 1.01), (0, Image.Resampling.NEAREST, 0)):
        found = np.asarray(turned(image, np.float32(np.deg2rad(degrees)), order))
        expected = np.asarray(Image.fromarray(image).rotate(degrees, resample)).astype(float)
        far = np.abs(found - expected).max(axis=-1) > atol
        y, x = np.mgrid[-10:11, -10:11]
        # Within a pixel of the border PIL does not blend with the black outside.
        assert far[np.hypot(x, y) < 9].mean() <= (0.02 if order == 0 else 0)


def test_random_rotation_is_within_its_limit():
    image = np.zeros((1, 41, 41, 1), np.uint8)
    image[0, 20, 35] = 255  # fifteen pixels to the right of the middle
    turn = jax.jit(Rotation(30), static_argnums=3)
    found = np.asarray(turn(np.repeat(image, 300, axis=0), np.arange(300), KEY, 41))
    y, x = np.mgrid[-20:21, -20:21]
    weight = found[..., 0] / found.sum(axis=(1, 2, 3))[:, None, None]
    angles = np.rad2deg(np.arctan2(-(weight * y).sum(axis=(1, 2)), (weight * x).sum(axis=(1, 2))))
    assert -31 < angles.min() < -27
    assert 27 < angles.max() < 31
    assert abs(angles.mean()) < 3


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (RandomCrop, {"padding": -1}),
        (Flip, {"probability": 1.5}),
        (RandomResizedCrop, {"scale": (0.5,)}),
        (RandomResizedCrop, {"scale": (0.5, 2)}),
        (RandomResizedCrop, {"ratio": (2, 1)}),
        (Rotation, {"degrees": 181}),
    ],
)
def test_values_out_of_range(cls, options):
    with pytest.raises(UserError, match=f"option {next(iter(options))}=.* of {cls.__name__} must be"):
        cls(**options)
