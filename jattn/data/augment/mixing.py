"""Pictures mixed with another of their batch; their targets are mixed in the same shares.

The other one is the next in the batch, and that of the last one is the first (`partner`).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jattn.data.options import check_range
from jattn.types import Array, Float, Int, Key, Shaped


def partner(values: Shaped[Array, "B ..."], axis_name: str | None = None) -> Shaped[Array, "B ..."]:
    """Of each example, the value of the one that it is mixed with.

    Under a pmap with an axis of this name a batch lies on its devices in its order: the last example of a device is
    mixed with the first of the next device.
    """
    if axis_name is None:
        return jnp.roll(values, -1, axis=0)
    devices = jax.lax.axis_size(axis_name)
    first = jax.lax.ppermute(values[:1], axis_name, [(i, (i - 1) % devices) for i in range(devices)])
    return jnp.concatenate([values[1:], first])


def _shares(
    ids: Int[Array, " B"], key: Key[Array, ""], alpha: float | int
) -> tuple[Float[Array, " B"], Key[Array, " B"]]:
    """Of each example a share from the distribution Beta(alpha, alpha), and a key for more."""
    keys = jax.vmap(lambda example_id: jax.random.split(jax.random.fold_in(key, example_id)))(ids)
    return jax.vmap(lambda own: jax.random.beta(own, alpha, alpha))(keys[:, 0]), keys[:, 1]


@dataclass(frozen=True)
class Mixup:
    """The values of two pictures averaged. H. Zhang, M. Cisse et al., mixup, ICLR 2018 (arXiv:1710.09412)."""

    alpha: float | int = 0.2  # 1: any share is as likely; towards 0: nearly one of the two

    def __post_init__(self):
        check_range(self, "alpha", 1e-3)

    def __call__(
        self,
        images: Shaped[Array, "B h w c"],
        others: Shaped[Array, "B h w c"],
        ids: Int[Array, " B"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, "B h w c"], Float[Array, " B"]]:
        """Each picture mixed with the other one, and the share of its own."""
        own, _ = _shares(ids, key, self.alpha)
        share = own[:, None, None, None]
        return share * images.astype(jnp.float32) + (1 - share) * others.astype(jnp.float32), own


@dataclass(frozen=True)
class CutMix:
    """A rectangle taken from the other picture. S. Yun, D. Han et al., CutMix, ICCV 2019 (arXiv:1905.04899)."""

    alpha: float | int = 1.0  # of the distribution of the share that stays

    def __post_init__(self):
        check_range(self, "alpha", 1e-3)

    def __call__(
        self,
        images: Shaped[Array, "B h w c"],
        others: Shaped[Array, "B h w c"],
        ids: Int[Array, " B"],
        key: Key[Array, ""],
    ) -> tuple[Shaped[Array, "B h w c"], Float[Array, " B"]]:
        """Each picture mixed with the other one, and the share of its own, which is 1 - the rectangle's area."""
        share, keys = _shares(ids, key, self.alpha)
        _, height, width, _ = images.shape

        def inside(own_share, own_key):
            middle = jnp.floor(jax.random.uniform(own_key, (2,)) * jnp.array([height, width]))
            half = jnp.floor(jnp.sqrt(1 - own_share) * jnp.array([height, width]) / 2)
            rows, columns = (
                (place >= middle[axis] - half[axis]) & (place < middle[axis] + half[axis])
                for axis, place in enumerate((jnp.arange(height), jnp.arange(width)))
            )
            return rows[:, None] & columns[None]

        cut = jax.vmap(inside)(share, keys)[..., None]
        return jnp.where(cut, others, images), 1 - jnp.mean(cut, axis=(1, 2, 3))
