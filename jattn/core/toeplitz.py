"""Matrices whose entries depend on the lag alone, made from a table by lag, and the sums along their diagonals."""

import functools

import jax
import jax.numpy as jnp

from jattn.types import Array, Float


def toeplitz(window: Float[Array, "*B l"], t: int, s: int) -> Float[Array, "*B t s"]:
    """The block whose entry (i, j) is `window[i - j + s - 1]`.

    Gathered as whole rows, which XLA's CPU code copies: where a block is built from reshapes, it computes an index for
    each entry, in every operation that it fuses the block into.
    """
    by_column = jnp.flip(window, -1)  # entry x: lag of column x - (t - 1) relative to row 0
    row = functools.partial(jax.lax.dynamic_slice_in_dim, by_column, slice_size=s, axis=-1)
    return jax.vmap(row, out_axes=-2)(t - 1 - jnp.arange(t))


def diagonal_sums(block: Float[Array, "*B t s"]) -> Float[Array, "*B l"]:
    """The transpose of `toeplitz`: entry x is the sum of the entries (i, j) with i - j + s - 1 = x.

    On CPUs as JAX transposes it, by a scatter: 41 us where sums of shifted halves take 128 (8 heads, blocks of 128).
    On GPUs a scatter adds in no fixed order, and a run could not be repeated.
    """
    return jax.lax.platform_dependent(block, cpu=_sums_by_scatter, default=_sums_by_halves)


def _sums_by_scatter(block: Array) -> Array:
    *batch, t, s = block.shape
    window = jax.ShapeDtypeStruct((*batch, t + s - 1), block.dtype)
    (sums,) = jax.linear_transpose(functools.partial(toeplitz, t=t, s=s), window)(block)
    return sums


def _sums_by_halves(block: Array) -> Array:
    """Row i belongs i entries further on: the lower half of the rows is added to the upper one, moved, and so on."""
    *batch, t, s = block.shape
    rows, still = jnp.flip(block, -1), [(0, 0)] * len(batch)
    while (height := rows.shape[-2]) > 1:
        half = (height + 1) // 2
        upper = jnp.pad(rows[..., :half, :], [*still, (0, 0), (0, half)])
        lower = jnp.pad(rows[..., half:, :], [*still, (0, 2 * half - height), (half, 0)])
        rows = upper + lower
    return rows[..., 0, : t + s - 1]
