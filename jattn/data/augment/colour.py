"""What value a pixel has: brightness, contrast, saturation, hue, noise."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jattn.data.augment.base import Augmentation, by_example
from jattn.data.options import check_range
from jattn.errors import UserError
from jattn.types import Array, Float, Shaped

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2: how bright red, green and blue look


def normalized(
    images: Shaped[Array, "B h w c"], mean: tuple[float | int, ...], std: tuple[float | int, ...]
) -> Float[Array, "B h w c"]:
    """Values 0 to 255 brought to 0 to 1, minus `mean`, divided by `std`, both one number a channel."""
    center, spread = (jnp.array(value, jnp.float32)[None, None, None] for value in (mean, std))
    return (images.astype(jnp.float32) / 255 - center) / spread


def grey(image: Float[Array, "h w 3"]) -> Float[Array, "h w 1"]:
    """How bright each pixel looks."""
    return jnp.tensordot(image, jnp.array(_LUMA), axes=1)[..., None]


def blended(
    first: Float[Array, "..."], second: Float[Array, "h w 3"], share: Float[Array, ""] | float
) -> Float[Array, "h w 3"]:
    """`second`, away from `first` as far as `share` says: 0 is the first, 1 the second, more is beyond it."""
    return jnp.clip(first + share * (second - first), 0, 255)


@dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Brightness, contrast, saturation and hue changed at random, in this order; colour pictures only.

    The first three by factors between 1 - x and 1 + x (0 is black, the mean grey, or grey; 1 is the picture), the hue
    by up to x of the colour circle to either side. torchvision's ColorJitter draws the order too.
    """

    brightness: float | int = 0.0
    contrast: float | int = 0.0
    saturation: float | int = 0.0
    hue: float | int = 0.0

    def __post_init__(self):
        for name in ("brightness", "contrast", "saturation"):
            check_range(self, name, 0)
        check_range(self, "hue", 0, 0.5)

    def __call__(self, images, ids, key, size):
        """Pictures, float32."""

        def jitter(image, own):
            by = jax.random.uniform(own, (4,), jnp.float32, -1.0, 1.0)
            limits = (self.brightness, self.contrast, self.saturation)
            factors = [jnp.maximum(0, 1 + x * limit) for x, limit in zip(by[:3], limits, strict=True)]
            image = blended(jnp.zeros(()), image.astype(jnp.float32), factors[0])
            image = blended(jnp.mean(grey(image)), image, factors[1])
            image = blended(grey(image), image, factors[2])
            return hue_shifted(image, by[3] * self.hue) if self.hue else image

        return by_example(jitter, images, ids, key)


def hue_shifted(image: Float[Array, "h w 3"], shift: Float[Array, ""]) -> Float[Array, "h w 3"]:
    """The colours of a picture moved along the colour circle by a share of it, value and saturation kept."""
    high, low = jnp.max(image, axis=-1), jnp.min(image, axis=-1)
    spread = high - low
    red, green, blue = ((high - image[..., c]) / jnp.where(spread > 0, spread, 1) for c in range(3))
    hue = jnp.where(
        image[..., 0] == high, blue - green, jnp.where(image[..., 1] == high, 2 + red - blue, 4 + green - red)
    )
    sextant = (hue / 6 + shift)[..., None] * 6
    # Each channel rises, stays, falls and stays along the circle, red from 0, green a third later, blue two thirds.
    part = jnp.mod(sextant + jnp.array([5.0, 3.0, 1.0])[None, None], 6)
    return high[..., None] - spread[..., None] * jnp.clip(jnp.minimum(part, 4 - part), 0, 1)


@dataclass(frozen=True)
class GaussianNoise(Augmentation):
    """Noise of a normal distribution added to every value, as strong in all channels or in each as given.

    Noise of strength s on normalised pictures, as the ConvNN repository adds it, is s times the data set's `std`.
    """

    std: float | int | tuple[float | int, ...] = 0.05  # 1 is the range from black to white

    def __post_init__(self):
        values = self.std if isinstance(self.std, tuple | list) else (self.std,)
        if len(values) not in (1, 3) or not all(isinstance(v, float | int) and v >= 0 for v in values):
            raise UserError(f"option std={self.std} of GaussianNoise must be one number of 0 or more, or three")

    def __call__(self, images, ids, key, size):
        """Pictures, float32; values may leave 0 to 255."""

        def add(image, own):
            std = jnp.asarray(self.std, jnp.float32).reshape(1, 1, -1)
            return image.astype(jnp.float32) + 255 * std * jax.random.normal(own, image.shape)

        return by_example(add, images, ids, key)


def smoothed(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Each pixel 5 parts, its eight neighbours 1 part each; the border as it is. As PIL's filter SMOOTH."""
    height, width, _ = image.shape
    total = sum(image[i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3))
    return image.at[1:-1, 1:-1].set((total + 4 * image[1:-1, 1:-1]) / 13)
