"""The digits: all there, divided within each class, normalised and moved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jattn.data.augment import random_shift
from jattn.data.dataset import eval_batch
from jattn.data.digits import Digits
from jattn.errors import UserError
from jattn.task import Task


def whole(dataset, split):
    index = np.arange(dataset.size(split))
    return dataset.examples(split, index, np.zeros_like(index))


def rows(images, digits):
    return sorted(
        [*image.ravel().astype(int).tolist(), int(digit)] for image, digit in zip(images, digits, strict=True)
    )


def test_task():
    assert Digits().task == Task(kind="image", num_classes=10, image_shape=(8, 8, 1))


def test_the_splits_are_a_division_of_the_original():
    parts = [whole(Digits(), split) for split in Digits.splits]
    data = load_digits()
    joined = rows(
        np.concatenate([part["inputs"] for part in parts]), np.concatenate([part["targets"] for part in parts])
    )
    assert joined == rows(data.images, data.target)
    assert all(part["inputs"].dtype == np.uint8 for part in parts)
    assert len({tuple(row) for row in joined}) == 1797  # no picture occurs twice, so no two splits share one


def test_each_class_is_divided_70_10_20():
    total = np.bincount(load_digits().target)
    for split, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        counts = np.bincount(whole(Digits(), split)["targets"])
        np.testing.assert_array_less(np.abs(counts - share * total), 1)
    assert [Digits().size(split) for split in Digits.splits] == [1258, 180, 359]


def test_the_seed_fixes_the_division():
    first, same, other = (rows(*list(whole(Digits(split_seed=seed), "test").values())[:2]) for seed in (0, 0, 1))
    assert first == same
    assert first != other


def test_normalisation():
    images = np.arange(17, dtype=np.uint8).repeat(64).reshape(17, 8, 8, 1)
    ids = np.arange(17, dtype=np.int32)
    prepared = jax.jit(lambda x, i: Digits().prepare(x, i, None))(images, ids)
    assert prepared.dtype == np.float32
    np.testing.assert_array_equal(prepared[:, 0, 0, 0], np.linspace(-1, 1, 17))


def test_augmentation_moves_the_picture_over_an_empty_background():
    batch = eval_batch(Digits(), "train", 1, 40)
    images, ids, key = jnp.asarray(batch["inputs"]), jnp.asarray(batch["example_id"]), jax.random.key(0)
    for max_shift in (1, 3):
        prepared = Digits(max_shift=max_shift).prepare(images, ids, key)
        expected = np.asarray(random_shift(images, ids, key, max_shift), np.float32) / 8 - 1
        np.testing.assert_array_equal(prepared, expected)
        assert (prepared != Digits().prepare(images, ids, None)).any()
    np.testing.assert_array_equal(Digits(max_shift=0).prepare(images, ids, key), Digits().prepare(images, ids, None))


@pytest.mark.parametrize(("option", "value"), [("max_shift", -1), ("max_shift", 8), ("split_seed", -1)])
def test_values_out_of_range(option, value):
    with pytest.raises(UserError, match=f"{option}={value} of Digits must be"):
        Digits(**{option: value})
