"""One call of attention in the form that every implementation works on.

Heads are grouped: query-side arrays are `B K G T ...` with G = H // K queries heads a key head, key-side arrays
`B K 1 S ...`, parameters of score and mask `B K G ...`. Axes of size 1 broadcast without being copied.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core.biases import Reach, intersection
from jattn.core.dropout import Dropout
from jattn.types import Array, Bool, Float, Int, PyTree, Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments of `attend`, grouped. `example` (B 1 1) and `head` (1 K G) are global indices for dropout."""

    q: Tokens
    k: Tokens
    v: Float[Array, "B K 1 S E"]
    score: Any
    bias: Any
    mask: Any
    offset: Any  # an integer scalar; jax.checkpoint hands it over as a NumPy one
    dropout: Dropout | None
    example: Int[Array, "B 1 1"]
    head: Int[Array, "1 K G"]

    @property
    def heads(self) -> tuple[int, int, int]:
        """B, K, G."""
        return self.example.shape[0], self.head.shape[1], self.head.shape[2]

    @property
    def queries(self) -> int:
        """T."""
        return jax.tree.leaves(self.q)[0].shape[3]

    @property
    def keys(self) -> int:
        """S."""
        return self.v.shape[3]

    def without_ones(self, x: Array, axes: int = 3) -> Array:
        """x, led by B K G or the first so many of them, without those of which this call has one.

        A block's matrices are computed so, because XLA makes products of matrices without such axes. What follows would
        first have to look at them as arrays of other axes, and then does not overwrite them.
        """
        ones = [axis for axis, size in enumerate(self.heads[:axes]) if size == 1]
        return jnp.squeeze(x, ones)

    def with_ones(self, x: Array, axes: int = 3) -> Array:
        """The inverse of `without_ones`."""
        ones = [axis for axis, size in enumerate(self.heads[:axes]) if size == 1]
        return jnp.expand_dims(x, ones)

    def product(self, axes: str, x: Array, y: Array, dtype: Any) -> Array:
        """`jnp.einsum(axes, x, y)` of arrays `without_ones`, accumulated in dtype; axes b, k, g are those of heads."""
        for letter, size in zip("bkg", self.heads, strict=True):
            axes = axes.replace(letter, "") if size == 1 else axes
        return jnp.einsum(axes, x, y, preferred_element_type=dtype)

    def reach(self) -> Reach:
        """The lags that bias and mask together can allow."""
        return intersection([part for part in (self.bias, self.mask) if part is not None])

    def ungroup(self, x: Array) -> Array:
        """`B K G T ...` back to `B H T ...`."""
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def group(q, k, v, score, bias, mask, offset, dropout, example, head) -> Call:
    """Brings head-major arguments (`B H T ...`, `B K S ...`; parameters `H ...`) into grouped form."""
    batch, key_heads, per_key = v.shape[0], v.shape[1], head.shape[0] // v.shape[1]

    def query_side(leaf: Array) -> Array:
        shared = leaf.shape[1] == 1
        return leaf.reshape(leaf.shape[0], *((1, 1) if shared else (key_heads, per_key)), *leaf.shape[2:])

    def parameter(leaf: Array) -> Array:
        # One copy for every (example, head) before any custom derivative: the sum of their gradients over
        # batch and heads is then taken once, outside the loop over blocks and outside of shards.
        shape = leaf.shape[1:]
        return jnp.broadcast_to(leaf, (batch, head.shape[0], *shape)).reshape(batch, key_heads, per_key, *shape)

    return Call(
        q=jax.tree.map(query_side, q),
        k=jax.tree.map(lambda leaf: leaf[:, :, None], k),
        v=v[:, :, None],
        score=jax.tree.map(parameter, score),
        bias=bias,
        mask=jax.tree.map(parameter, mask),
        offset=jnp.asarray(offset, jnp.int32),
        dropout=dropout,
        example=example.reshape(batch, 1, 1),
        head=head.reshape(1, key_heads, per_key),
    )


def over_heads(function: Callable, sizes: tuple[int, ...], *trees: PyTree) -> PyTree:
    """Maps a function of one head of one example over the leading axes B, K, G of its arguments' leaves.

    Leaves whose axis has size 1 are shared along it, so their cotangents are summed over it.
    """
    if not sizes:
        return function(*trees)
    leaves, structure = jax.tree.flatten(trees)
    if sizes[0] == 1:
        one = over_heads(function, sizes[1:], *jax.tree.unflatten(structure, [leaf[0] for leaf in leaves]))
        return jax.tree.map(lambda leaf: leaf[None], one)
    axes = [0 if leaf.shape[0] == sizes[0] else None for leaf in leaves]
    leaves = [leaf if axis == 0 else leaf[0] for leaf, axis in zip(leaves, axes, strict=True)]

    def inner(leaves: list) -> PyTree:
        return over_heads(function, sizes[1:], *jax.tree.unflatten(structure, leaves))

    return jax.vmap(inner, in_axes=(axes,), axis_size=sizes[0])(leaves)


def pair_scores(score: Any, heads: tuple[int, int, int], q: Tokens, k: Tokens, q_pos: Array, k_pos: Array) -> Array:
    """The score of every pair of a block, `B K G t s`, in float32 or better."""
    values = over_heads(lambda score, q, k: score(q, k, q_pos, k_pos), heads, score, q, k)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def pair_allowed(
    mask: Any, heads: tuple[int, int, int], q: Tokens, k: Tokens, q_pos: Array, k_pos: Array
) -> Bool[Array, "B K G t s"]:
    """What the mask says of every pair of a block."""
    return over_heads(lambda mask, q, k: mask(q, k, q_pos, k_pos), heads, mask, q, k)


def pair_kept(
    dropout: Dropout, heads: tuple[int, int, int], example: Array, head: Array, q_pos: Array, k_pos: Array
) -> Bool[Array, "B K G t s"]:
    """Which weights of a block dropout keeps."""
    rows = over_heads(lambda example, head: dropout.rows(example, head, q_pos), heads, example, head)
    return over_heads(lambda rows: dropout.kept(rows, k_pos), heads, rows)
