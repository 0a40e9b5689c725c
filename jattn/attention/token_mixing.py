"""W_A of super attention: a learned matrix that mixes the values of a head over the tokens.

    v'_i = sum_j A_ij v_j + b_i        over the real tokens j of i's sequence; j <= i when causal

Row and column are the tokens' positions. Those of a packed sequence are counted from its own first token, so that
it is mixed as it would be alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jattn.errors import UserError
from jattn.types import Array, Bool, DTypeLike, Float, Int

_ROWS = 128
"""Rows of the matrix that are looked up at a time for packed sequences, whose matrices differ by example."""


class TokenMixing(nn.Module):
    """The matrix: kernel (L, h, L) of A_ij at [j, :, i], bias (h, L), h = 1 where the heads share them.

    length: L, the longest sequence; None = that of `init`.
    """

    num_matrices: int
    length: int | None
    causal: bool
    use_bias: bool
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        v: Float[Array, "B H S E"],
        mask: Bool[Array, "B S"] | Int[Array, "B S"] | None,
        first: Int[Array, ""] | int,
        count: int,
    ) -> Float[Array, "B H t E"]:
        """Mixed values of the `count` tokens from `first` on. mask: True = real, or segment ids; None = all are real.

        Raises:
          UserError: more tokens than the matrix has rows.
        """
        tokens = v.shape[2]
        v, kernel, bias = promote_dtype(v, *self._parameters(tokens), dtype=self.dtype)
        kernel = kernel.transpose(1, 2, 0)
        if mask is None or mask.dtype == jnp.bool_:
            if mask is not None:
                v = jnp.where(mask[:, None, :, None], v, 0)
            positions = (first + jnp.arange(count))[None]
            rows = jax.lax.dynamic_slice_in_dim(kernel, first, count, axis=1)[:, :, :tokens]
            if self.causal:
                rows = jnp.where((jnp.arange(tokens)[None] <= positions[0][:, None])[None], rows, 0)
            mixed = jnp.matmul(rows[None], v)
        else:
            all_positions = jax.vmap(positions_in_segments)(mask)
            v = jnp.where((mask != 0)[:, None, :, None], v, 0)
            positions, segments = (jax.lax.dynamic_slice_in_dim(x, first, count, 1) for x in (all_positions, mask))
            mixed = self._mix_packed(kernel, v, (positions, segments), (all_positions, mask))
        return mixed if bias is None else mixed + jnp.moveaxis(bias[:, positions], 0, 1)[..., None]

    def _parameters(self, tokens: int) -> tuple[Float[Array, "L h L"], Float[Array, "h L"] | None]:
        length = self.length
        if length is None:
            known = self.has_variable("params", "kernel")
            length = nn.unbox(self.get_variable("params", "kernel")).shape[-1] if known else tokens
        if tokens > length:
            raise UserError(
                f"super attention mixes at most max_length {length} tokens, but there are {tokens}: "
                f"shorten the sequence, or set max_length to at least {tokens}"
            )
        xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=0, out_axis=2, batch_axis=1)
        names = ("length", "heads", "length")
        kernel = self.param("kernel", nn.with_logical_partitioning(xavier, names), (length, self.num_matrices, length))
        if not self.use_bias:
            return kernel, None
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, names[1:])
        return kernel, self.param("bias", zeros, (self.num_matrices, length))

    def _mix_packed(
        self,
        kernel: Float[Array, "h L L"],
        v: Float[Array, "B H S E"],
        rows: tuple[Array, Array],
        columns: tuple[Array, Array],
    ) -> Float[Array, "B H T E"]:
        """Values mixed inside of segments; rows and columns are the tokens' positions and segments, each (B, tokens).

        Every example has a matrix of its own, looked up block by block of rows, again in the backward pass.
        """
        batch, count = rows[0].shape
        size = min(_ROWS, count)
        blocks = -(-count // size)
        padded = (jnp.pad(x, ((0, 0), (0, blocks * size - count))) for x in rows)
        by_block = tuple(jnp.moveaxis(x.reshape(batch, blocks, size), 1, 0) for x in padded)

        @jax.checkpoint
        def mix(block: tuple[Array, Array]) -> Float[Array, "B H t E"]:
            positions, segments = block
            matrix = kernel[:, positions[:, :, None], columns[0][:, None, :]]
            allowed = segments[:, :, None] == columns[1][:, None, :]
            if self.causal:
                allowed &= columns[0][:, None, :] <= positions[:, :, None]
            matrix = jnp.where(allowed[None], matrix, 0)
            return jnp.matmul(jnp.moveaxis(matrix, 0, 1), v)

        mixed = jnp.moveaxis(jax.lax.map(mix, by_block), 0, 2)
        return mixed.reshape(*mixed.shape[:2], blocks * size, -1)[:, :, :count]


def positions_in_segments(segments: Int[Array, " S"]) -> Int[Array, " S"]:
    """How many tokens of its own segment stand before each token.

    >>> positions_in_segments(jnp.asarray([7, 7, 3, 7, 3]))
    Array([0, 1, 0, 2, 1], dtype=int32)
    """
    order = jnp.argsort(segments, stable=True)
    index = jnp.arange(segments.size, dtype=jnp.int32)
    begins = jnp.diff(segments[order], prepend=segments[order[:1]] - 1) != 0
    rank = index - jax.lax.cummax(jnp.where(begins, index, 0))
    return jnp.zeros_like(index).at[order].set(rank)
