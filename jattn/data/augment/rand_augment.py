"""RandAugment: a few of fourteen changes, drawn at random, all of one strength.

E. D. Cubuk, B. Zoph et al., RandAugment: Practical automated data augmentation with a reduced search space, NeurIPS
2020 (arXiv:1909.13719). Changes and their strengths as in torchvision (31 levels, nearest pixels, black outside).

Under vmap a choice between fourteen functions would compute all of them for every picture. But they are of three
kinds, and each kind has an identity: a linear map of places; a blend with a duller picture; a table from old values to
new ones. So a change is a matrix, a picture to blend with, a share and a table, and every picture goes through three.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jattn.data.augment.base import Augmentation, by_example
from jattn.data.augment.colour import blended, grey, smoothed
from jattn.data.augment.geometry import affine, rotation
from jattn.data.options import check_range
from jattn.types import Array, Float, Int

LEVELS = 31
CHANGES = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)


@dataclass(frozen=True)
class RandAugment(Augmentation):
    """`num_ops` changes after each other, drawn with replacement, each in a random direction; colour pictures only."""

    num_ops: int = 2
    magnitude: int = 9  # strength of all changes, 0 to 30

    def __post_init__(self):
        check_range(self, "num_ops", 0)
        check_range(self, "magnitude", 0, LEVELS - 1)

    def __call__(self, images, ids, key, size):
        """Pictures of whole values, float32."""

        def augment(image, own):
            image = jnp.clip(jnp.round(image.astype(jnp.float32)), 0, 255)
            for number in range(self.num_ops):
                choice, direction = jax.random.split(jax.random.fold_in(own, number))
                change = jax.random.randint(choice, (), 0, len(CHANGES))
                image = changed(image, change, jax.random.rademacher(direction, (), jnp.float32), self.magnitude)
            return image

        return by_example(augment, images, ids, key)


def changed(
    image: Float[Array, "h w 3"], change: Int[Array, ""], sign: Float[Array, ""], magnitude: int
) -> Float[Array, "h w 3"]:
    """A picture of whole values 0 to 255 after one of CHANGES, in direction `sign` (1 or -1)."""
    level = magnitude / (LEVELS - 1)
    height, width, _ = image.shape

    # Places. torchvision shears about the upper left corner.
    shear = sign * 0.3 * level
    identity = jnp.array([[1.0, 0, 0], [0, 1, 0]])
    matrices = {
        "shear_x": identity.at[0, 1].set(shear).at[0, 2].set(shear * height / 2),
        "shear_y": identity.at[1, 0].set(shear).at[1, 2].set(shear * width / 2),
        "translate_x": identity.at[0, 2].set(-sign * int(150 / 331 * width * level)),
        "translate_y": identity.at[1, 2].set(-sign * int(150 / 331 * height * level)),
        "rotate": rotation(sign * math.radians(30 * level)),
    }
    image = affine(image, jnp.stack([matrices.get(name, identity) for name in CHANGES])[change], order=0)

    # Blends with black, grey, the mean grey and a smoother picture.
    grey_image = jnp.round(grey(image))
    duller = {
        "brightness": jnp.zeros_like(image),
        "color": jnp.broadcast_to(grey_image, image.shape),
        "contrast": jnp.broadcast_to(jnp.floor(jnp.mean(grey_image) + 0.5), image.shape),
        "sharpness": jnp.round(smoothed(image)),
    }
    is_blend = jnp.array([name in duller for name in CHANGES])[change]
    dull = jnp.stack(list(duller.values()))[jnp.clip(change - CHANGES.index("brightness"), 0, len(duller) - 1)]
    image = jnp.where(is_blend, jnp.floor(blended(dull, image, 1 + sign * 0.9 * level)), image)

    # Tables of new values, one for each channel.
    values = jnp.arange(256.0)
    counts = jax.vmap(_histogram, in_axes=2)(image)
    unchanged = jnp.broadcast_to(values[None], (3, 256))
    step = 2.0 ** round(magnitude * 4 / (LEVELS - 1))
    tables = {
        "posterize": jnp.broadcast_to((values - jnp.mod(values, step))[None], (3, 256)),
        "solarize": jnp.broadcast_to(jnp.where(values < 255 * (1 - level), values, 255 - values)[None], (3, 256)),
        "autocontrast": jax.vmap(_stretched)(counts),
        "equalize": jax.vmap(_equalized)(counts),
    }
    table = jnp.stack([tables.get(name, unchanged) for name in CHANGES])[change]
    return jax.vmap(lambda channel, new: new[channel.astype(jnp.int32)], in_axes=(2, 0), out_axes=2)(image, table)


def _histogram(channel: Float[Array, "h w"]) -> Int[Array, "256"]:
    return jnp.zeros(256, jnp.int32).at[channel.astype(jnp.int32).reshape(-1)].add(1)


def _stretched(counts: Int[Array, "256"]) -> Float[Array, "256"]:
    """New values that reach from 0 to 255."""
    values = jnp.arange(256.0)
    low, high = jnp.argmax(counts > 0), 255 - jnp.argmax(counts[::-1] > 0)
    new = jnp.floor((values - low) * 255 / jnp.where(high > low, high - low, 1) + 1e-4)
    return jnp.where(high > low, jnp.clip(new, 0, 255), values)


def _equalized(counts: Int[Array, "256"]) -> Float[Array, "256"]:
    """New values that are all about as frequent."""
    last = counts[255 - jnp.argmax(counts[::-1] > 0)]
    step = (jnp.sum(counts) - last) // 255
    below = jnp.cumsum(counts) - counts
    new = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255).astype(jnp.float32)
    return jnp.where(step > 0, new, jnp.arange(256.0))
