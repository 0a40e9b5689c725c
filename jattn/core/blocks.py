"""Blocks of queries and keys: how large they are, which of them matter, and how a block's logits are made."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core.biases import Reach
from jattn.core.call import Call, pair_allowed, pair_kept, pair_scores
from jattn.core.plan import integers
from jattn.core.toeplitz import toeplitz
from jattn.types import Array, Float, Int, PyTree, Tokens


@dataclasses.dataclass(frozen=True)
class Grid:
    """The static part of a blocked call: lengths, and sizes of a block of queries and of keys."""

    queries: int
    keys: int
    query_block: int
    key_block: int

    @property
    def query_blocks(self) -> int:
        """Blocks that cover the queries."""
        return -(-self.queries // self.query_block)

    @property
    def key_blocks(self) -> int:
        """Blocks that cover the keys."""
        return -(-self.keys // self.key_block)

    @property
    def is_one_block(self) -> bool:
        """Whether one block has all pairs. Then it is computed without a look at its reach."""
        return self.query_blocks == self.key_blocks == 1

    @property
    def lags(self) -> int:
        """Length of the table of biases: all lags of all blocks, padding included."""
        return self.query_blocks * self.query_block + self.key_blocks * self.key_block - 1


def grid(queries: int, keys: int, query_block: int = 128, key_block: int = 128) -> Grid:
    """Blocks of at most so many tokens, of equal size so that little is padded."""

    def size(tokens: int, largest: int) -> int:
        return -(-tokens // -(-tokens // largest)) if tokens else 1

    return Grid(queries, keys, size(queries, query_block), size(keys, key_block))


def in_turn(start: Array | int, stop: Array | int, function: Callable[[Any, Any], Any], carry: Any) -> Any:
    """`jax.lax.fori_loop` over blocks; if they are known to be one, number 0, `function(0, carry)`.

    Nothing is then cut out of arrays and written back, no index is computed, XLA fuses the block with what surrounds
    it, and a GPU need not ask after each block whether to go on.
    """
    one = isinstance(start, int) and isinstance(stop, int) and (start, stop) == (0, 1)
    return function(0, carry) if one else jax.lax.fori_loop(start, stop, function, carry)


def padded(tree: PyTree, tokens: int, value: float = 0) -> PyTree:
    """Leaves filled up with `value` to `tokens` along their token axis."""

    def pad(leaf: Array) -> Array:
        missing = tokens - leaf.shape[3]
        widths = [(0, missing if axis == 3 else 0) for axis in range(leaf.ndim)]
        return jnp.pad(leaf, widths, constant_values=value) if missing else leaf

    return jax.tree.map(pad, tree)


def block(tree: PyTree, index: Array | int, size: int) -> PyTree:
    """Block `index` of the leaves along their token axis."""
    return jax.tree.map(lambda leaf: part(leaf, index * size, size, axis=3), tree)


def part(leaf: Array, start: Array | int, size: int, axis: int) -> Array:
    """`size` entries of an axis from `start` on: the array itself where it has no more."""
    return leaf if leaf.shape[axis] == size else jax.lax.dynamic_slice_in_dim(leaf, start, size, axis)


class Slices:
    """Leaves filled up to `tokens`, to be read by blocks in a loop.

    Axes of heads are one, and left out are leading axes of size 1, such as that of the query heads of a key head: of an
    array with one, XLA makes a copy in front of a loop, as it lays out such axes in another order than the loop wants.
    """

    def __init__(self, tree: PyTree, tokens: int):
        leaves, self._structure = jax.tree.flatten(padded(tree, tokens))
        self._leading = [leaf.shape[:3] for leaf in leaves]
        self._leaves = []
        for leaf in leaves:
            batch, key_heads, per_key = leaf.shape[:3]
            self._leaves.append(leaf.reshape(*_above_one(batch, key_heads * per_key), *leaf.shape[3:]))

    def block(self, index: Array | int, size: int, first: Array | int = 0, key_heads: int | None = None) -> PyTree:
        """Block `index` of the leaves, with the axes they had; of `key_heads` in a row from `first` on (None = all)."""
        blocks = []
        for leaf, (batch, present, per_key) in zip(self._leaves, self._leading, strict=True):
            taken = present if key_heads is None or present == 1 else key_heads  # one is shared by all
            sizes = _above_one(batch, present * per_key)
            rest = leaf.shape[len(sizes) + 1 :]
            starts: list[Array | int] = [0] * len(sizes)
            if taken < present:
                starts[-1], sizes[-1] = first * per_key, taken * per_key
            block = (*sizes, size, *rest)
            if leaf.shape != block:
                starts = integers([*starts, index * size, *[0] * len(rest)])
                leaf = jax.lax.dynamic_slice(leaf, starts, block, allow_negative_indices=False)
            blocks.append(leaf.reshape(batch, taken, per_key, size, *rest))
        return self._structure.unflatten(blocks)


def _above_one(*sizes: int) -> list[int]:
    return [size for size in sizes if size > 1]


def written(tree: PyTree, new: PyTree, start: Array | int, first: Array | int = 0) -> PyTree:
    """Leaves with their tokens from `start` on, of key heads from `first` on, replaced by those of `new`."""

    def write(leaf: Array, rows: Array) -> Array:
        if rows.shape == leaf.shape:
            return rows
        starts = integers([0, first, 0, start, *[0] * (leaf.ndim - 4)])
        return jax.lax.dynamic_update_slice(leaf, rows, starts, allow_negative_indices=False)

    return jax.tree.map(write, tree, new)


def lag_table(call: Call, g: Grid) -> Float[Array, "1 k g L"] | None:
    """The bias of every lag that can occur, from `offset - (padded keys - 1)` upwards; None without a bias."""
    if call.bias is None:
        return None
    first = call.offset - (g.key_blocks * g.key_block - 1)
    values = call.bias(first + jnp.arange(g.lags))
    _, key_heads, per_key = call.heads
    return values.reshape(1, *((1, 1) if values.shape[0] == 1 else (key_heads, per_key)), g.lags)


def table_start(g: Grid, i: Array | int, j: Array | int) -> Array | int:
    """Where the t + s - 1 lags of block (i, j) begin in the table."""
    return i * g.query_block + (g.key_blocks - 1 - j) * g.key_block


_FAR = 2**30


def whole_lags(reach: Reach) -> tuple[Array, Array]:
    """The whole lags (lo, hi) of a reach as int32, one or one for each head; unbounded ends are +-2**30."""
    lo, hi = reach
    lo = -_FAR if lo is None else jnp.ceil(jnp.clip(jnp.asarray(lo), -_FAR, _FAR))
    hi = _FAR if hi is None else jnp.floor(jnp.clip(jnp.asarray(hi), -_FAR, _FAR))
    return jnp.asarray(lo, jnp.int32), jnp.asarray(hi, jnp.int32)


def union(reach: Reach) -> tuple[Array, Array]:
    """The lags (lo, hi) within the reach of some head, as int32 scalars."""
    lo, hi = whole_lags(reach)
    return jnp.min(lo), jnp.max(hi)


def key_blocks_of(g: Grid, i: Array | int, offset: Array, reach: tuple[Array, Array]) -> tuple[Array, Array]:
    """First and one past the last block of keys that queries of block i can attend to."""
    first, last = offset + i * g.query_block, offset + jnp.minimum((i + 1) * g.query_block, g.queries) - 1
    start = jnp.clip((first - reach[1]) // g.key_block, 0, g.key_blocks)
    return start, jnp.clip((last - reach[0]) // g.key_block + 1, start, g.key_blocks)


def query_blocks_of(g: Grid, j: Array | int, offset: Array, reach: tuple[Array, Array]) -> tuple[Array, Array]:
    """First and one past the last block of queries that can attend to keys of block j."""
    first, last = j * g.key_block - offset, jnp.minimum((j + 1) * g.key_block, g.keys) - 1 - offset
    start = jnp.clip((first + reach[0]) // g.query_block, 0, g.query_blocks)
    return start, jnp.clip((last + reach[1]) // g.query_block + 1, start, g.query_blocks)


def visited(g: Grid, reach: Reach, offset: int | Array = 0) -> Int[Array, ""]:
    """How many blocks a forward pass computes."""
    starts, stops = jax.vmap(lambda i: key_blocks_of(g, i, jnp.asarray(offset), union(reach)))(
        jnp.arange(g.query_blocks)
    )
    return jnp.sum(stops - starts)


class View:
    """A call cut into blocks: the tokens of a block, its scores, and what bias, mask and dropout do to them.

    What has a number for each pair of a block is `without_ones`, see `jattn.core.call.Call`.

    call: that of this view's heads.
    first: the first of its key heads.
    """

    def __init__(self, grid: Grid, call: Call, table: Array | None, offset: Array):
        self.grid, self.call, self.table, self.offset = grid, call, table, offset
        self.first: Array | int = 0
        self._queries = Slices(call.q, grid.query_blocks * grid.query_block)
        self._keys = Slices((call.k, call.v), grid.key_blocks * grid.key_block)

    def of_heads(self, number: Array | int, size: int) -> "View":
        """The part of that number, if so many key heads make one."""
        key_heads = self.call.heads[1]
        if size == key_heads:
            return self
        view = copy.copy(self)
        view.first = number * size

        def own(leaf: Any) -> Any:
            if jnp.ndim(leaf) < 2 or leaf.shape[1] != key_heads:
                return leaf
            return jax.lax.dynamic_slice_in_dim(leaf, view.first, size, axis=1)

        # Its arrays of tokens are only looked at for their shapes: blocks are read from those of all heads.
        view.call, view.table = jax.tree.map(own, (dataclasses.replace(self.call, bias=None), self.table))
        return view

    def read(self, slices: Slices, index: Array | int, size: int) -> PyTree:
        """Block `index` of these heads."""
        return slices.block(index, size, self.first, self.call.heads[1])

    def queries(self, i: Array | int) -> Tokens:
        """Block i of the queries."""
        return self.read(self._queries, i, self.grid.query_block)

    def keys(self, j: Array | int) -> tuple[Tokens, Float[Array, "B K s E"]]:
        """Block j of the keys and of their values."""
        k, v = self.read(self._keys, j, self.grid.key_block)
        return k, v[:, :, 0]

    def positions(self, i: Array | int, j: Array | int) -> tuple[Int[Array, " t"], Int[Array, " s"]]:
        """Positions of the queries of block i and of the keys of block j."""
        g = self.grid
        q_pos = self.offset + i * g.query_block + jnp.arange(g.query_block)
        return q_pos, j * g.key_block + jnp.arange(g.key_block)

    def scores(self, score: Any, q: Tokens, k: Tokens, i: Array | int, j: Array | int) -> Float[Array, "*heads t s"]:
        """Scores of the pairs of block (i, j)."""
        return self.call.without_ones(pair_scores(score, self.call.heads, q, k, *self.positions(i, j)))

    def logits(self, scores: Array, q: Tokens, k: Tokens, i: Array | int, j: Array | int) -> Float[Array, "*heads t s"]:
        """Scores plus bias, -inf where a pair may not attend."""
        g, call = self.grid, self.call
        if self.table is not None:
            lags = g.query_block + g.key_block - 1
            window = part(self.table, table_start(g, i, j), lags, axis=3)
            scores = scores + toeplitz(call.without_ones(window), g.query_block, g.key_block)
        if call.mask is not None:
            allowed = pair_allowed(call.mask, call.heads, q, k, *self.positions(i, j))
            scores = jnp.where(call.without_ones(allowed), scores, -jnp.inf)
        if g.keys % g.key_block:
            real = j * g.key_block + jnp.arange(g.key_block) < g.keys
            scores = jnp.where(jnp.broadcast_to(real, scores.shape), scores, -jnp.inf)
        return scores

    def dropped(self, weights: Array, i: Array | int, j: Array | int) -> Float[Array, "*heads t s"]:
        """Weights after dropout."""
        dropout, call = self.call.dropout, self.call
        if dropout is None:
            return weights
        kept = pair_kept(dropout, call.heads, call.example, call.head, *self.positions(i, j))
        return jnp.where(call.without_ones(kept), weights / (1 - dropout.rate), 0.0)
