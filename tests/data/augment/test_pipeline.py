"""Augmentations as a config lists them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.data.augment import Pipeline, normalized, parse
from jattn.data.augment.colour import ColorJitter, GaussianNoise
from jattn.data.augment.geometry import Flip, RandomCrop, RandomResizedCrop, Rotation
from jattn.data.augment.mixing import CutMix, Mixup
from jattn.data.cifar import CIFAR10
from jattn.errors import UserError


def test_a_list_of_names_with_options():
    text = "random_resized_crop(scale=(0.05, 1)), flip, color_jitter(brightness=0.2, hue=0.1), mixup(alpha=0.4)"
    changes = (RandomResizedCrop(scale=(0.05, 1)), Flip(), ColorJitter(brightness=0.2, hue=0.1))
    assert parse(text) == Pipeline(changes, Mixup(0.4))
    assert parse("random_crop, cutmix") == Pipeline((RandomCrop(),), CutMix())
    assert parse("flip") == Pipeline((Flip(),), None)
    assert parse("") == Pipeline((), None)


@pytest.mark.parametrize(
    "augmentation",
    [RandomCrop(2), Flip(), RandomResizedCrop(), Rotation(45), ColorJitter(0.4, 0.4, 0.4, 0.1), GaussianNoise()],
)
def test_the_batch_does_not_matter(augmentation):
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 7, 3), np.uint8)
    ids, order = np.array([4, 0, 900, 17, 2, 1], np.int32), np.array([5, 2, 2, 5, 0, 2])
    augment = jax.jit(augmentation, static_argnums=3)
    whole = np.asarray(augment(images, ids, jax.random.key(7), 8))
    np.testing.assert_allclose(augment(images[order], ids[order], jax.random.key(7), 8), whole[order], atol=1e-3)
    assert (augment(images, ids, jax.random.key(4), 8) != whole).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flp", "unknown augmentation 'flp': did you mean 'flip'"),
        ("flip(p=0.1)", "unknown option of augmentation flip 'p'.*known: probability"),
        ("flip(probability='1')", "probability='1' of augmentation flip must be of type"),
        ("rotation(degrees=200)", "degrees=200 of Rotation must be between 0 and 180"),
        ("mixup, flip", "mixup or cutmix may only be the last"),
        ("mixup, cutmix", "only one of them"),
        ("flip flip", "cannot read"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(UserError, match=message):
        CIFAR10(augmentation=text)


def test_changes_follow_each_other_with_keys_of_their_own():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    ids, key = np.arange(5), jax.random.key(1)
    noise, crop = (jax.jit(change, static_argnums=3) for change in (GaussianNoise(0.1), RandomCrop(1)))
    pipeline = parse("gaussian_noise(std=0.1), random_crop(padding=1), gaussian_noise(std=0.1)")
    found = jax.jit(pipeline.apply, static_argnums=3)(images, ids, key, 8)
    keys = [jax.random.fold_in(key, i) for i in range(3)]
    first = crop(np.asarray(noise(images, ids, keys[0], 8)), ids, keys[1], 8)
    np.testing.assert_allclose(found, noise(first, ids, keys[2], 8), atol=1e-3)


def test_a_data_set_augments_then_fits_then_normalizes():
    dataset = CIFAR10(augmentation="random_crop(padding=2), flip", image_size=40)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    ids, key = np.arange(3), jax.random.key(1)

    @jax.jit
    def by_hand(images, ids):
        moved = parse(dataset.augmentation).apply(images, ids, key, 40)
        large = jax.image.resize(moved.astype(jnp.float32), (3, 40, 40, 3), "linear")
        return normalized(large, dataset.mean, dataset.std)

    prepare = jax.jit(dataset.prepare)
    found = prepare(images, ids, key)
    np.testing.assert_allclose(found, by_hand(images, ids), atol=1e-5)
    assert (found != prepare(images, ids, None)).any()
    assert dataset.task.image_shape == (40, 40, 3)


def test_what_follows_a_resize_acts_on_the_model_s_pixels():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    ids, key = np.arange(3), jax.random.key(1)

    @jax.jit
    def by_hand(images, ids):
        large = jax.image.resize(images.astype(jnp.float32), (3, 12, 12, 3), "linear")
        return RandomCrop(2)(large, ids, jax.random.fold_in(key, 1), 12)

    found = jax.jit(parse("resize, random_crop(padding=2)").apply, static_argnums=3)(images, ids, key, 12)
    np.testing.assert_allclose(found, by_hand(images, ids), atol=1e-4)


def test_a_data_set_mixes_what_it_prepared():
    images = np.broadcast_to(np.arange(3, dtype=np.float32)[:, None, None, None], (3, 4, 4, 3))
    others, ids, key = images[::-1], np.arange(3), jax.random.key(1)
    mixed, own = jax.jit(CIFAR10(augmentation="flip, mixup(alpha=1)").mix)(images, others, ids, key)
    expected, share = jax.jit(Mixup(1))(images, others, ids, jax.random.fold_in(key, 1))
    np.testing.assert_array_equal(mixed, expected)
    np.testing.assert_array_equal(own, share)
    same, nothing = CIFAR10(augmentation="flip").mix(jnp.asarray(images), jnp.asarray(others), jnp.asarray(ids), key)
    assert nothing is None
    np.testing.assert_array_equal(same, images)
