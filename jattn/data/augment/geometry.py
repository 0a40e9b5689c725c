"""Where the pixels of a picture lie: sizes, crops, flips, rotations."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jattn.data.augment.base import Augmentation, by_example
from jattn.data.options import check_range
from jattn.errors import UserError
from jattn.types import Array, Float, Int, Key, Shaped

_TRIES = 10  # torchvision's, before it takes the whole picture


def resized(images: Shaped[Array, "B h w c"], size: int) -> Shaped[Array, "B H W c"]:
    """Pictures of `size` x `size` pixels: the middle of larger ones, smaller ones enlarged (bilinear, to float32)."""
    batch, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    if min(height, width) >= size:
        top, left = (height - size) // 2, (width - size) // 2
        return images[:, top : top + size, left : left + size]
    return jax.image.resize(images.astype(jnp.float32), (batch, size, size, channels), "linear")


@dataclass(frozen=True)
class Resize(Augmentation):
    """The whole of a smaller picture at the model's size (see `resized`), so that what follows acts on its pixels."""

    def __call__(self, images, ids, key, size):
        """Pictures of the model's size: enlarged, or the middle of larger ones."""
        return resized(images, size)


def random_shift(
    images: Shaped[Array, "B h w c"], ids: Int[Array, " B"], key: Key[Array, ""], max_shift: int
) -> Shaped[Array, "B h w c"]:
    """Move each picture by up to `max_shift` pixels down or up and right or left, zeros moving in.

    Both distances are uniform integers drawn from `fold_in(key, id)`.
    """
    return by_example(lambda image, own: _cropped(image, own, image.shape[:2], max_shift), images, ids, key)


def _cropped(
    image: Shaped[Array, "h w c"], key: Key[Array, ""], size: tuple[int, int], padding: int
) -> Shaped[Array, "H W c"]:
    """A part of `size` (height, width) from anywhere in the picture framed by zeros."""
    room = jnp.array([length - part for length, part in zip(image.shape[:2], size, strict=True)]) + 2 * padding + 1
    corner = jax.random.randint(key, (2,), 0, room)
    framed = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(framed, (corner[0], corner[1], 0), (*size, image.shape[2]))


@dataclass(frozen=True)
class RandomCrop(Augmentation):
    """A part of the model's size from anywhere in the picture, framed by `padding` pixels of zeros.

    Pictures that are smaller than the model's are cropped to their own size.
    """

    padding: int = 4

    def __post_init__(self):
        check_range(self, "padding", 0)

    def __call__(self, images, ids, key, size):
        """A crop, of the pictures' own type."""
        part = tuple(min(size, length) for length in images.shape[1:3])
        return by_example(lambda image, own: _cropped(image, own, part, self.padding), images, ids, key)


@dataclass(frozen=True)
class Flip(Augmentation):
    """Left and right exchanged in half of the pictures."""

    probability: float | int = 0.5

    def __post_init__(self):
        check_range(self, "probability", 0, 1)

    def __call__(self, images, ids, key, size):
        """Pictures, mirrored or not, of their own type."""

        def flip(image, own):
            return jnp.where(jax.random.bernoulli(own, float(self.probability)), image[:, ::-1], image)

        return by_example(flip, images, ids, key)


@dataclass(frozen=True)
class RandomResizedCrop(Augmentation):
    """A part of random area and shape, resized to the model's size (bilinear, antialiased).

    C. Szegedy, W. Liu et al., Going Deeper with Convolutions, CVPR 2015 (arXiv:1409.4842), section 6; drawn as by
    torchvision: the first of ten parts that fits into the picture, otherwise the picture's largest middle part of an
    allowed shape.
    """

    scale: tuple[float | int, ...] = (0.08, 1.0)  # share of the picture's area, from and to
    ratio: tuple[float | int, ...] = (3 / 4, 4 / 3)  # width / height, from and to

    def __post_init__(self):
        for name, high in (("scale", 1.0), ("ratio", math.inf)):
            value = getattr(self, name)
            if (
                len(value) != 2
                or not all(isinstance(v, float | int) for v in value)
                or not 0 < value[0] <= value[1] <= high
            ):
                raise UserError(
                    f"option {name}={value} of RandomResizedCrop must be two numbers, 0 < from <= to <= {high}"
                )

    def __call__(self, images, ids, key, size):
        """Parts, float32."""

        def crop(image, own):
            top, left, height, width = self.box(own, image.shape[0], image.shape[1])
            zoom = size / jnp.stack([height, width])
            shape = (size, size, image.shape[2])
            corner = -jnp.stack([top, left]) * zoom
            return jax.image.scale_and_translate(image.astype(jnp.float32), shape, (0, 1), zoom, corner, "linear")

        return by_example(crop, images, ids, key)

    def box(self, key: Key[Array, ""], height: int, width: int) -> Float[Array, "4"]:
        """Top, left, height and width of the part: whole pixels."""
        area, shape, place = jax.random.split(key, 3)
        areas = height * width * jax.random.uniform(area, (_TRIES,), jnp.float32, *self.scale)
        low, high = self.ratio
        ratios = jnp.exp(jax.random.uniform(shape, (_TRIES,), jnp.float32, math.log(low), math.log(high)))
        sizes = jnp.round(jnp.sqrt(jnp.stack([areas / ratios, areas * ratios])))
        fits = jnp.all((sizes > 0) & (sizes <= jnp.array([[height], [width]])), axis=0)
        whole = jnp.array([min(height, round(width / low)), min(width, round(height * high))], jnp.float32)
        size = jnp.where(jnp.any(fits), sizes[:, jnp.argmax(fits)], whole)
        room = jnp.array([height, width]) - size
        drawn = jnp.floor(jax.random.uniform(place, (2,)) * (room + 1))
        return jnp.concatenate([jnp.where(jnp.any(fits), drawn, jnp.floor(room / 2)), size])


@dataclass(frozen=True)
class Rotation(Augmentation):
    """Turned about the middle by a uniform angle, bilinear; what turns in is black."""

    degrees: float | int = 10  # the largest angle, to either side

    def __post_init__(self):
        check_range(self, "degrees", 0, 180)

    def __call__(self, images, ids, key, size):
        """Pictures, float32."""

        def rotate(image, own):
            limit = math.radians(self.degrees)
            return affine(image, rotation(jax.random.uniform(own, (), jnp.float32, -limit, limit)), order=1)

        return by_example(rotate, images, ids, key)


def rotation(angle: Float[Array, ""]) -> Float[Array, "2 3"]:
    """The matrix for `affine` that turns a picture counter-clockwise by an angle in radians."""
    cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
    return jnp.stack([jnp.stack([cos, -sin, zero]), jnp.stack([sin, cos, zero])])


def affine(image: Shaped[Array, "h w c"], matrix: Float[Array, "2 3"], order: int) -> Float[Array, "h w c"]:
    """The picture seen through a linear map: at (x, y), from its middle, is what was at `matrix @ (x, y, 1)`.

    Black outside of it. x points right, y down, in pixels. `order` 0: the nearest pixel; 1: between four of them.
    """
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij")
    there = jnp.tensordot(matrix, jnp.stack([x, y, jnp.ones_like(x)]), axes=1)
    places = [there[1] + (height - 1) / 2, there[0] + (width - 1) / 2]

    def seen(channel):
        return jax.scipy.ndimage.map_coordinates(channel, places, order=order, mode="constant")

    return jax.vmap(seen, in_axes=2, out_axes=2)(image.astype(jnp.float32))
