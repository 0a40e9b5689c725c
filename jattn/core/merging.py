"""Attention to several sets of keys, merged into attention to all of them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jattn.types import Array, Float


def merged(
    parts: Sequence[tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]],
) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
    """out and lse of `attend` over the union of disjoint sets of keys, given those over each set.

    Each set's share of the softmax is exp(lse_i) / sum_j exp(lse_j). A query without a key in any set gives zeros and
    -inf, and gradients of zero.
    """
    outs, lses = zip(*parts, strict=True)
    lses = jnp.stack(lses)
    largest = jax.lax.stop_gradient(jnp.max(lses, axis=0))
    largest = jnp.where(largest == -jnp.inf, 0.0, largest)
    shares = jnp.exp(lses - largest[None])
    total = shares.sum(0)
    some = jnp.where(total > 0, total, 1.0)
    out = sum(out * (share / some)[..., None] for out, share in zip(outs, shares, strict=True))
    return out.astype(outs[0].dtype), jnp.where(total > 0, largest + jnp.log(some), -jnp.inf)
