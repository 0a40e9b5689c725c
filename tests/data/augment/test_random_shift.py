"""Shifts on the device against NumPy."""

import jax
import numpy as np
import pytest

from jattn.data.augment import random_shift

shifted = jax.jit(random_shift, static_argnums=3)


def moved(image, down, right):
    """The picture moved by whole pixels, in NumPy, pixel by pixel."""
    result = np.zeros_like(image)
    height, width, _ = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[row, column] = image[row - down, column - right]
    return result


def pictures(count):
    return np.random.default_rng(0).integers(1, 17, (count, 5, 7, 2)).astype(np.uint8)


@pytest.mark.parametrize("max_shift", [1, 2, 4])
def test_each_picture_moves_by_what_its_id_says(max_shift):
    key, ids, images = jax.random.key(3), np.array([4, 0, 900, 4, 17, 2, 1], np.int32), pictures(7)
    result = shifted(images, ids, key, max_shift)
    assert result.dtype == np.uint8
    for image, example_id, found in zip(images, ids, result, strict=True):
        corner = jax.random.randint(jax.random.fold_in(key, example_id), (2,), 0, 2 * max_shift + 1)
        np.testing.assert_array_equal(found, moved(image, *(max_shift - np.asarray(corner))))


def test_the_batch_does_not_matter():
    key, ids, images = jax.random.key(5), np.arange(9), pictures(9)
    whole = shifted(images, ids, key, 2)
    for order in ([3, 8, 0, 5, 5, 0, 8, 3, 3], [6] * 9):
        np.testing.assert_array_equal(shifted(images[order], ids[order], key, 2), whole[np.array(order)])
    np.testing.assert_array_equal(shifted(images[6:7], ids[6:7], key, 2), whole[6:7])


def test_every_shift_is_as_likely_and_keys_differ():
    dot = np.zeros((1, 3, 3, 1), np.float32)
    dot[0, 1, 1, 0] = 1
    dots, ids = np.repeat(dot, 4500, axis=0), np.arange(4500)
    first, second = (np.asarray(shifted(dots, ids, jax.random.key(seed), 1)) for seed in (0, 1))
    np.testing.assert_array_less(np.abs(first.sum(axis=(0, 3)) - 500), 5 * np.sqrt(500))
    assert 0.8 < np.mean(np.any(first != second, axis=(1, 2, 3))) < 0.95  # 8 in 9


def test_no_shift():
    images = pictures(3)
    result = shifted(images, np.arange(3), jax.random.key(0), 0)
    np.testing.assert_array_equal(result, images)
