"""Random augmentation of pictures inside the compiled step, where it is many times cheaper than on the host."""

import jax
import jax.numpy as jnp

from jattn.types import Array, Int, Key, Shaped


def random_shift(
    images: Shaped[Array, "B h w c"], ids: Int[Array, " B"], key: Key[Array, ""], max_shift: int
) -> Shaped[Array, "B h w c"]:
    """Move each picture by up to `max_shift` pixels down or up and right or left, zeros moving in.

    Both distances are uniform integers drawn from `fold_in(key, id)`: an example moves in the same way in
    whatever batch it is.
    """
    _, height, width, channels = images.shape

    def shift(image, example_id):
        corner = jax.random.randint(jax.random.fold_in(key, example_id), (2,), 0, 2 * max_shift + 1)
        framed = jnp.pad(image, ((max_shift, max_shift), (max_shift, max_shift), (0, 0)))
        return jax.lax.dynamic_slice(framed, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(shift)(images, ids)
