"""How many queries and keys a program of a fused kernel works on at a time."""

import dataclasses

from jattn.core.evaluable import crowding, looked_up
from jattn.core.powers_of_two import filled
from jattn.core.tiles import HEAD, Parts, backward_tile


@dataclasses.dataclass(frozen=True)
class BlockSizes:
    """Of one kernel: t queries and s keys a tile, both powers of two from 16 up; warps and stages are Triton's."""

    t: int
    s: int
    warps: int = 4
    stages: int = 2


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the three kernels: forward, gradients of queries and parameters, gradients of keys and values."""

    forward: BlockSizes
    queries: BlockSizes
    keys: BlockSizes


# By the widest feature axis, up to which a row serves. Nothing here was measured yet: the sizes are those that keep
# sums and one tile within the registers of their warps. `python -m jattn bench gpu` measures what belongs here.
TABLE: dict[int, Sizes] = {
    64: Sizes(BlockSizes(128, 64, 8, 3), BlockSizes(64, 64, 4, 2), BlockSizes(64, 64, 4, 2)),
    128: Sizes(BlockSizes(128, 64, 8, 2), BlockSizes(64, 32, 4, 2), BlockSizes(32, 64, 4, 2)),
    256: Sizes(BlockSizes(64, 32, 8, 2), BlockSizes(32, 32, 8, 1), BlockSizes(32, 32, 8, 1)),
}


def sizes_for(parts: Parts) -> Sizes:
    """Blocks for a call: the table's, but no longer than its tokens are.

    A score with arrays of three axes, [t, s, features], gets smaller tiles, as many times as those arrays are larger.
    """
    tile = backward_tile(parts, _LEAST, _LEAST, of_keys=False)
    read_whole = set(range(len(parts.owners))) - looked_up(tile)
    widths = [size for i in read_whole if parts.owners[i] != HEAD for size in parts.per_head[i]]
    sizes = next((sizes for width, sizes in TABLE.items() if width >= max(widths, default=1)), TABLE[max(TABLE)])
    times = crowding(tile, _LEAST * _LEAST)
    return Sizes(*(_fitted(size, parts, times) for size in (sizes.forward, sizes.queries, sizes.keys)))


_LEAST = 16


def _fitted(size: BlockSizes, parts: Parts, times: int) -> BlockSizes:
    t, s = (min(block, max(_LEAST, filled(count))) for block, count in ((size.t, parts.queries), (size.s, parts.keys)))
    while times > 1 and max(t, s) > _LEAST:
        t, s, times = (t // 2, s, times // 2) if t >= s else (t, s // 2, times // 2)
    return dataclasses.replace(size, t=t, s=s)
