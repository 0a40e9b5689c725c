"""Dropout of attention weights by an integer hash.

The mask is a function of (seed, example, head, query position, key position) alone: the same whatever the
blocks, the implementation or the number of devices, and recomputed in the backward pass instead of stored.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jattn.types import Array, Bool, Int, Shaped


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Weights are zeroed with probability `rate` and the others divided by 1 - rate.

    seed: a uint32 scalar; `jax.random.bits(key, dtype="uint32")` makes one from a key.
    """

    rate: float = dataclasses.field(metadata={"static": True})
    seed: Shaped[Array, ""] | int

    def __post_init__(self):
        if isinstance(self.rate, float | int) and not 0.0 <= self.rate < 1.0:
            raise ValueError(f"a dropout rate lies in [0, 1), got {self.rate}")

    def rows(self, example: Int[Array, ""], head: Int[Array, ""], q_pos: Int[Array, " t"]) -> Shaped[Array, " t"]:
        """The part of the hash that a query decides."""
        state = mix(jnp.asarray(self.seed, jnp.uint32))
        for index in (example, head):
            state = mix(state ^ (index.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)))
        return mix(state ^ q_pos.astype(jnp.uint32))

    def kept(self, rows: Shaped[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True for the weights of these rows and keys that stay."""
        columns = mix(k_pos.astype(jnp.uint32) + jnp.uint32(0x85EBCA6B))
        return mix(rows[:, None] ^ columns[None, :]) >= jnp.uint32(min(round(self.rate * 2**32), 2**32 - 1))


def mix(x: Array) -> Array:
    """A bijection of uint32 whose output bits all depend on all input bits (MurmurHash3's finaliser)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
