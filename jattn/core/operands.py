"""The operands of a fused kernel: a call's leaves in memory as it reads them, and the gradients that it wrote.

Tokens are filled up to whole blocks and other axes to powers of two, where they are not already; parameters that are
single numbers travel together, in one array of floating-point numbers and one of integers.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jattn.core.powers_of_two import Rows, filled, physical
from jattn.core.tiles import HEAD, QUERY, Parts
from jattn.types import Array, Int


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the leaves of a call lie in memory, for blocks of t queries and s keys.

    looked_up: positions of the leaves that are read where they are looked up, and are left as they are.
    """

    parts: Parts
    t: int
    s: int
    looked_up: frozenset[int]

    def __post_init__(self):
        singles = [i for i, owner in enumerate(self.parts.owners) if owner == HEAD and self.is_single(i)]
        floats = [i for i in singles if jnp.issubdtype(self.parts.dtypes[i], jnp.floating)]
        places = {i: (0, place) for place, i in enumerate(floats)}
        places |= {i: (1, place) for place, i in enumerate(i for i in singles if i not in places)}
        object.__setattr__(self, "places", places)

    def is_single(self, index: int) -> bool:
        """Whether a leaf is one number a head."""
        return math.prod(self.parts.per_head[index]) == 1

    def singles(self, kind: int) -> list[int]:
        """Positions of the single numbers, floating-point (kind 0) or other (1), as they lie one after the other."""
        return [i for i, (its_kind, _) in self.places.items() if its_kind == kind]

    def arrays(self, leaves: Sequence[Array], heads: tuple[int, int, int]) -> list[Array]:
        """What a kernel reads: the single numbers, then all other leaves."""
        packed = []
        for kind, dtype in ((0, jnp.float32), (1, jnp.int32)):
            numbers = [leaves[i].reshape(heads).astype(dtype) for i in self.singles(kind)]
            packed.append(jnp.stack(numbers or [jnp.zeros(heads, dtype)], -1))
        return packed + [self._laid_out(i, leaf) for i, leaf in enumerate(leaves) if i not in self.places]

    def _laid_out(self, index: int, leaf: Array) -> Array:
        if index in self.looked_up:
            return leaf
        owner = self.parts.owners[index]
        if owner == HEAD:
            return _filled_up(leaf.reshape(*leaf.shape[:3], *_trimmed(leaf.shape[3:])), 3)
        block = self.t if owner == QUERY else self.s
        return _filled_up(leaf, 4, tokens=-(-leaf.shape[3] // block) * block)

    def read(self, refs: Sequence[Any], owner: str, block: Any = 0) -> dict[int, Any]:
        """The leaves of this owner, those of tokens of this block, by position. refs: of `arrays`."""
        others = [i for i in range(len(self.parts.owners)) if i not in self.places]
        found = {}
        if owner == HEAD:
            for index, (kind, place) in self.places.items():
                found[index] = refs[kind][place].astype(_traced(self.parts.dtypes[index]))
        for index, ref in zip(others, refs[2:], strict=True):
            if self.parts.owners[index] != owner:
                continue
            if owner == HEAD:
                found[index] = ref[...]
            elif index in self.looked_up:
                found[index] = Rows(ref, block * self.t + jnp.arange(self.t, dtype=jnp.int32))
            else:
                size = self.t if owner == QUERY else self.s
                found[index] = ref[(pl.ds(block * size, size), *(slice(None),) * (len(ref.shape) - 1))]
        return found

    def rows(self, d_out: Array, delta: Array, lse: Array) -> list[Array]:
        """What a backward kernel reads besides, of every query."""
        missing = -d_out.shape[3] % self.t
        no_more = [(0, 0)] * 3
        features = (0, filled(d_out.shape[4]) - d_out.shape[4])
        d_out = jnp.pad(d_out, [*no_more, (0, missing), features])
        # Of rows that are none, weights are exp(-inf) = 0.
        lse = jnp.pad(lse, [*no_more, (0, missing)], constant_values=jnp.inf)
        return [d_out, jnp.pad(delta, [*no_more, (0, missing)]), lse]

    def read_rows(self, ref: Any, block: Any) -> Array:
        """Those of a block of queries."""
        return ref[(pl.ds(block * self.t, self.t), *(slice(None),) * (len(ref.shape) - 1))]

    def sums(self, of_keys: bool) -> list[Array]:
        """Zeros, for the gradients of one program; those of single numbers are kept by row."""
        tile = self.parts.of_tile(self.t, self.s)
        shapes = [(self.t,) if index in self.places else physical(tile[index].shape) for index in range(len(tile))]
        return [jnp.zeros(shapes[index], jnp.float32) for index in self.parts.gradients(of_keys)]

    def outputs(self, leaves: Sequence[Array], heads: tuple[int, int, int], programs: int, of_keys: bool) -> list:
        """What the programs of a kernel write: pairs of an array and of one program's block of it."""
        tile, found = self.parts.of_tile(self.t, self.s), []
        singles = [index for index in self.parts.gradients(of_keys) if index in self.places]
        if singles:
            found.append(((*heads, programs, len(singles)), jnp.float32, (None, len(singles))))
        for index in self.parts.gradients(of_keys):
            block = physical(tile[index].shape)
            if index in self.places:
                continue
            if self.parts.owners[index] == HEAD:
                found.append(((*heads, programs, *block), jnp.float32, (None, *block)))
            else:
                dtype = leaves[index].dtype if leaves[index].shape[:3] == heads else jnp.float32
                found.append(((*heads, programs * block[0], *block[1:]), dtype, block))
        return [(jax.ShapeDtypeStruct(shape, dtype), block) for shape, dtype, block in found]

    def write(self, outputs: Sequence[Any], gradients: Sequence[Array], of_keys: bool) -> None:
        """Writes a program's gradients."""
        outputs, place = list(outputs), 0
        packed = outputs.pop(0) if any(index in self.places for index in self.parts.gradients(of_keys)) else None
        for index, gradient in zip(self.parts.gradients(of_keys), gradients, strict=True):
            if index in self.places:
                packed[place], place = gradient.sum(), place + 1
            else:
                ref = outputs.pop(0)
                ref[...] = gradient.astype(ref.dtype)

    def collected(self, written: Sequence[Array], leaves: Sequence[Array], of_keys: bool) -> dict[int, Array]:
        """The gradients of leaves, by position, of what the programs wrote."""
        written, found, place = list(written), {}, 0
        packed = written.pop(0) if any(index in self.places for index in self.parts.gradients(of_keys)) else None
        for index in self.parts.gradients(of_keys):
            leaf = leaves[index]
            if index in self.places:
                gradient, place = packed[..., place].sum(3), place + 1
            elif self.parts.owners[index] == HEAD:
                gradient = written.pop(0).sum(3)
                gradient = gradient[(..., *(slice(size) for size in _trimmed(leaf.shape[3:])))]
            else:
                gradient = written.pop(0)[(slice(None),) * 3 + tuple(slice(size) for size in leaf.shape[3:])]
                shared = [axis for axis in range(3) if leaf.shape[axis] == 1 < gradient.shape[axis]]
                gradient = gradient.sum(shared, keepdims=True)
            found[index] = gradient.reshape(leaf.shape).astype(leaf.dtype)
        return found


def _traced(dtype: Any) -> Any:
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype


def _trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    first = next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return tuple(shape[first:])


def _filled_up(leaf: Array, first: int, tokens: int | None = None) -> Array:
    """Axes from `first` on filled up to powers of two, the one before to `tokens`, with what is at their end."""
    widths = [(0, filled(size) - size if axis >= first else 0) for axis, size in enumerate(leaf.shape)]
    if tokens is not None:
        widths[3] = (0, tokens - leaf.shape[3])
    return jnp.pad(leaf, widths, mode="edge") if any(after for _, after in widths) else leaf


def spec(array: Any, block: tuple[int | None, ...] | None = None, own: Callable = lambda i: i) -> pl.BlockSpec:
    """The part of an array (B|1, K|1, G|1, ...) that one program of a grid (blocks, G, K, B) sees.

    Of the fourth axis it sees all; or, where `block` is given, the shape of one, the program's own: number own(i).
    """
    batch, key_heads, per_key = array.shape[:3]
    rest = array.shape[3:] if block is None else block

    def index(i: Int[Array, ""], g: Array, k: Array, b: Array) -> tuple:
        heads = b if batch > 1 else 0, k if key_heads > 1 else 0, g if per_key > 1 else 0
        return (*heads, *((0,) * len(rest) if block is None else (own(i), *(0,) * (len(rest) - 1))))

    return pl.BlockSpec((None, None, None, *rest), index)
