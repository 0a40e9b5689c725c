"""Where the pixels of a picture lie: sizes, crops, flips, rotations."""

import jax
import jax.numpy as jnp

from jattn.types import Array, Int, Key, Shaped


def resized(images: Shaped[Array, "B h w c"], size: int) -> Shaped[Array, "B H W c"]:
    """Pictures of `size` x `size` pixels: the middle of larger ones, smaller ones enlarged (bilinear, to float32)."""
    batch, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    if min(height, width) >= size:
        top, left = (height - size) // 2, (width - size) // 2
        return images[:, top : top + size, left : left + size]
    return jax.image.resize(images.astype(jnp.float32), (batch, size, size, channels), "linear")


def random_crop(
    images: Shaped[Array, "B h w c"], ids: Int[Array, " B"], key: Key[Array, ""], size: tuple[int, int], padding: int
) -> Shaped[Array, "B H W c"]:
    """From each picture, framed by `padding` pixels of zeros, a part of `size` (height, width).

    Its corner is drawn uniformly from `fold_in(key, id)`: of an example it is the same in whatever batch it is.
    """
    _, height, width, channels = images.shape
    room = jnp.array([height - size[0], width - size[1]]) + 2 * padding + 1

    def crop(image, example_id):
        corner = jax.random.randint(jax.random.fold_in(key, example_id), (2,), 0, room)
        framed = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        return jax.lax.dynamic_slice(framed, (corner[0], corner[1], 0), (*size, channels))

    return jax.vmap(crop)(images, ids)


def random_shift(
    images: Shaped[Array, "B h w c"], ids: Int[Array, " B"], key: Key[Array, ""], max_shift: int
) -> Shaped[Array, "B h w c"]:
    """Move each picture by up to `max_shift` pixels down or up and right or left, zeros moving in."""
    return random_crop(images, ids, key, images.shape[1:3], max_shift)
