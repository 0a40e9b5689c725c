"""What windowed attention needs besides `Window`: windows of whole blocks, learned biases, and positions that decay."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn.core.biases import Bias, Reach
from jattn.core.masks import Mask
from jattn.core.scores import features
from jattn.types import Array, Bool, Float, Int, Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByLag(Bias):
    """A parameter for each lag from `first` on, one after the other; other lags are out of sight.

    values: Float[H|1 n].
    """

    values: Float[Array, "h n"]
    first: int = dataclasses.field(metadata={"static": True})

    def __call__(self, lag: Int[Array, "..."]) -> Float[Array, "h ..."]:
        """The lag's parameter, -inf where it has none."""
        index = lag - self.first
        inside = (index >= 0) & (index < self.values.shape[1])
        return jnp.where(inside[None], jnp.take(self.values, index, axis=1, mode="clip"), -jnp.inf)

    def reach(self) -> Reach:
        """The lags that have a parameter."""
        return self.first, self.first + self.values.shape[1] - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NearBlocks(Mask):
    """Blocks of `size` tokens: a query sees its own, `before` blocks before it and `after` blocks after it.

    Riders "place" of q, Int[B|1 1 T], and of k, Int[B|1 1 S], are the places of tokens in their sequence.
    """

    size: int = dataclasses.field(metadata={"static": True})
    before: int = dataclasses.field(metadata={"static": True})
    after: int = dataclasses.field(metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Bool[Array, "t s"]:
        """True for keys in the blocks that the query sees."""
        first = (q["place"] // self.size - self.before) * self.size
        slot = k["place"][None, :] - first[:, None]
        return (slot >= 0) & (slot < (self.before + 1 + self.after) * self.size)

    def reach(self) -> Reach:
        """From the first key of a block's last query to the last key of its first."""
        return 1 - (self.after + 1) * self.size, (self.before + 1) * self.size - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BySlot:
    """Another score, plus a parameter for each pair of a query's slot in its block and a key's in the blocks around.

    Blocks and riders as for `NearBlocks`.

    table: Float[H|1 w L], of w slots of a block and L slots of the blocks that it sees, the first of which is
      `before` blocks before its own.
    """

    score: Any
    table: Float[Array, "... w l"]
    before: int = dataclasses.field(metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block; those of keys that the query does not see mean nothing."""
        size, slots = self.table.shape
        rows = jnp.take(self.table, q["place"] % size, axis=0)
        slot = k["place"][None, :] - ((q["place"] // size - self.before) * size)[:, None]
        return self.score(q, k, q_pos, k_pos) + jnp.take_along_axis(rows, jnp.clip(slot, 0, slots - 1), axis=1)


_CHUNK = 16  # bases of xPos: scales stay within 0.4 / 1.4 to the power of +-8 around the middle of a chunk of queries


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class XPos:
    """Dot products of rotated queries and keys whose features decay with the lag, each at its own rate.

        score = scale * sum_i q_ti k_si z_i ** ((t + shift - s) / base)    z_i = z_{i + D/2} = (2 i + 0.4 D) / (1.4 D)

    (Sun et al. 2022, "A Length-Extrapolatable Transformer", arXiv:2212.10554, section 4.2, gamma = 0.4; an odd last
    feature does not decay). A feature's decay is divided between query and key, z ** ((t - c) / base) and
    z ** ((c + shift - s) / base). With c = 0 these reach 0 and infinity within some hundred tokens; here c is a token
    in the middle of the queries at hand.

    reach: the largest |t - s| that matters; scores of pairs farther apart mean nothing, but are finite.
    """

    scale: float = dataclasses.field(metadata={"static": True})
    base: int = dataclasses.field(metadata={"static": True})
    reach: int = dataclasses.field(metadata={"static": True})
    shift: int = dataclasses.field(default=0, metadata={"static": True})

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """Scores of one block, in float32 or better."""
        q, k = features(q), features(k)
        precise = jnp.promote_types(jnp.promote_types(q.dtype, k.dtype), jnp.float32)
        q, k = self.scale * q.astype(precise), k.astype(precise)
        rows, length = [], _CHUNK * self.base
        for start in range(0, q_pos.size, length):
            positions = q_pos[start : start + length]
            middle, far = positions[positions.size // 2], length // 2 + self.reach
            behind = jnp.clip(middle - k_pos, -far, far) + self.shift
            of_query = self._decay(positions - middle, q.shape[1], precise)
            of_key = self._decay(behind, q.shape[1], precise)
            rows.append(jnp.einsum("td,sd->ts", q[start : start + length] * of_query, k * of_key))
        return rows[0] if len(rows) == 1 else jnp.concatenate(rows)

    def _decay(self, lag: Int[Array, " n"], head_dim: int, dtype: Any) -> Float[Array, "n d"]:
        rates = np.log((2 * np.arange(head_dim // 2) + 0.4 * head_dim) / (1.4 * head_dim)) / self.base
        half = jnp.exp(lag.astype(dtype)[:, None] * jnp.asarray(rates, dtype)[None, :])
        return jnp.concatenate([half, half, jnp.ones((lag.size, head_dim % 2), dtype)], axis=1)

    @staticmethod
    def smallest_base(reach: int) -> int:
        """The least base for which decays over such a lag, and those of a chunk's half, are float32 numbers."""
        largest = 87.0 / math.log(1.4 / 0.4) - _CHUNK / 2
        return math.ceil(reach / largest)

    @staticmethod
    def chunks(queries: int, base: int) -> int:
        """How many middles so many queries at hand have."""
        return -(-queries // (_CHUNK * base))
