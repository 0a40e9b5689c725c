"""`attend`: softmax attention with any score, bias and mask, by the implementation that serves it best."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core.banded import banded, banded_cannot, banded_rather_not
from jattn.core.blockwise import blockwise
from jattn.core.call import group
from jattn.core.choice import Choice, Implementation, Request, choose, take
from jattn.core.dense import dense
from jattn.core.dropout import Dropout
from jattn.core.library import library, library_cannot
from jattn.core.pallas_gpu import pallas_gpu, pallas_gpu_cannot
from jattn.core.scores import Dot
from jattn.core.sharding import divided
from jattn.types import Array, Float, Int, Tokens


def attend(
    q: Tokens,
    k: Tokens,
    v: Float[Array, "B K S E"],
    *,
    score: Any = Dot(),  # noqa: B008 (an immutable value)
    bias: Any = None,
    mask: Any = None,
    offset: int | Int[Array, ""] = 0,
    dropout: Dropout | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
    """Softmax attention, `out[t] = sum_s softmax_s(score(q_t, k_s) + bias(t - s)) v_s` over the pairs `mask` allows.

    Args:
      q: queries, a pytree of arrays (B, H, T, ...): an array, or a dict whose entry "features" is scored and whose
        other entries ride along for score and mask. Batch and head axes of riders may be 1.
      k: keys, the same with (B, K, S, ...), where K divides H: H / K query heads share a key head.
      v: values (B, K, S, E).
      score: pytree dataclass, see `jattn.core.scores`.
      bias: pytree dataclass, see `jattn.core.biases`; None adds nothing.
      mask: pytree dataclass, see `jattn.core.masks`; None allows every pair.
      offset: position of query 0, may be traced. Key 0 has position 0.
      dropout: of the weights after the softmax.
      implementation: a name of `IMPLEMENTATIONS`; None takes the first that serves (see `explain`).

    Returns:
      out (B, H, T, E) in v's dtype, and lse (B, H, T), the log of the softmax's normaliser, in float32 or better.
      A query without a key gives zeros and -inf. Both are differentiable in reverse mode.

    Raises:
      ValueError: shapes that do not fit each other, an unknown implementation or one that cannot serve the call.
    """
    request = Request.of(
        q, k, v, score=score, bias=bias, mask=mask, offset=offset, dropout=dropout, named=implementation
    )
    run = take(IMPLEMENTATIONS, request)
    if dropout is not None:
        dropout = dataclasses.replace(dropout, seed=jnp.asarray(dropout.seed, jnp.uint32))
    arguments = q, k, v, score, bias, mask, jnp.asarray(offset, jnp.int32), dropout
    indices = jnp.arange(request.batch), jnp.arange(request.heads)
    return divided(lambda *grouped: run(group(*grouped)), request)(*arguments, *indices)


_UNTRIED = "it is taken when named: no GPU has run it yet"
_ALONE = "one query has no matrix of pairs to leave out"
_AS_NAMED = "it is taken when named: its lse has no gradient"

# In order of preference. On two CPU cores blockwise took less time and memory than dense at every length from 4
# tokens up (`python -m jattn bench attention`), so there is no threshold between them. A query that is alone, as in
# decoding, has no matrix to leave out: dense took a third of the time.
IMPLEMENTATIONS: dict[str, Implementation] = {
    "pallas_gpu": Implementation(pallas_gpu, pallas_gpu_cannot, lambda request: _UNTRIED, made_for="gpu"),
    "banded": Implementation(banded, banded_cannot, banded_rather_not),
    "blockwise": Implementation(
        blockwise, lambda request: None, lambda request: _ALONE if request.queries == 1 else None
    ),
    "dense": Implementation(dense, lambda request: None, lambda request: None),
    "xla": Implementation(
        functools.partial(library, implementation="xla"),
        functools.partial(library_cannot, implementation="xla"),
        lambda request: _AS_NAMED,
    ),
    "cudnn": Implementation(
        functools.partial(library, implementation="cudnn"),
        functools.partial(library_cannot, implementation="cudnn"),
        lambda request: _AS_NAMED,
    ),
}


def native_implementations() -> list[str]:
    """Names of the implementations to compare on this machine: all, but for kernels that it would interpret."""
    return [name for name, entry in IMPLEMENTATIONS.items() if entry.made_for in (None, jax.default_backend())]


def explain(
    q: Tokens,
    k: Tokens,
    v: Any,
    *,
    score: Any = Dot(),  # noqa: B008 (an immutable value)
    bias: Any = None,
    mask: Any = None,
    offset: int | Array = 0,
    dropout: Dropout | None = None,
    implementation: str | None = None,
) -> Choice:
    """Which implementation `attend` would take for these arguments, and why not the others.

    Only shapes and dtypes are looked at: `jax.ShapeDtypeStruct`s serve as well as arrays.
    """
    request = Request.of(
        q, k, v, score=score, bias=bias, mask=mask, offset=offset, dropout=dropout, named=implementation
    )
    return choose(IMPLEMENTATIONS, request)
