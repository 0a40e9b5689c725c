"""`attend`: softmax attention with any score, bias and mask, by the implementation that serves it best."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from jattn.core.biases import Causal, Window
from jattn.core.blockwise import blockwise
from jattn.core.call import Call, group
from jattn.core.dense import dense
from jattn.core.dropout import Dropout
from jattn.core.library import library, terms
from jattn.core.scores import Dot
from jattn.errors import unknown
from jattn.types import DATA_AXIS, MODEL_AXIS, Array, Float, Int, PyTree, Tokens


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
    request = Request.of(q, k, v, score=score, bias=bias, mask=mask, offset=offset, dropout=dropout)
    run = IMPLEMENTATIONS[choose(request, implementation).implementation].run
    if dropout is not None:
        dropout = dataclasses.replace(dropout, seed=jnp.asarray(dropout.seed, jnp.uint32))
    arguments = q, k, v, score, bias, mask, jnp.asarray(offset, jnp.int32), dropout
    indices = jnp.arange(request.batch), jnp.arange(request.heads)
    return divided(lambda *grouped: run(group(*grouped)), request)(*arguments, *indices)


@dataclasses.dataclass(frozen=True)
class Request:
    """What the choice of an implementation depends on: sizes, kinds, platform; no values."""

    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    dtype: Any
    score: Any
    bias: Any
    mask: Any
    offset: Any
    dropout: Dropout | None
    platform: str

    @classmethod
    def of(
        cls, q: Tokens, k: Tokens, v: Any, *, score: Any, bias: Any, mask: Any, offset: Any, dropout: Any
    ) -> "Request":
        """Checks the shapes against each other."""
        q_leaves, k_leaves = jax.tree.leaves(q), jax.tree.leaves(k)
        if not q_leaves or not k_leaves:
            raise ValueError("attend needs at least one array in q and one in k")
        for name, leaves in (("q", q_leaves), ("k", k_leaves), ("v", [v])):
            for leaf in leaves:
                if leaf.ndim < 3:
                    raise ValueError(f"leaves of {name} have axes (batch, heads, tokens, ...), got shape {leaf.shape}")
        batch, key_heads, keys = v.shape[:3]
        heads, queries = max(leaf.shape[1] for leaf in q_leaves), q_leaves[0].shape[2]
        heads = max(heads, key_heads)
        if key_heads == 0 or heads % key_heads:
            raise ValueError(f"the number of key heads divides that of query heads, got {key_heads} and {heads}")
        for name, leaves, sizes in (
            ("q", q_leaves, (batch, heads, queries)),
            ("k", k_leaves, (batch, key_heads, keys)),
        ):
            for leaf in leaves:
                fits = leaf.shape[0] in (1, sizes[0]) and leaf.shape[1] in (1, sizes[1]) and leaf.shape[2] == sizes[2]
                if not fits:
                    raise ValueError(f"a leaf of {name} has shape {leaf.shape}, which does not fit {sizes} of v and q")
        for name, part in (("score", score), ("bias", bias), ("mask", mask)):
            for leaf in jax.tree.leaves(part):
                if jnp.ndim(leaf) == 0 or leaf.shape[0] not in (1, heads):
                    raise ValueError(
                        f"parameters of a {name} lead with an axis of size {heads} (heads) or 1, got {jnp.shape(leaf)}"
                    )
        platform = jax.default_backend()
        return cls(batch, heads, key_heads, queries, keys, v.dtype, score, bias, mask, offset, dropout, platform)


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute attention.

    cannot: why it cannot serve a request, or None if it can.
    rather_not: why it is not taken unless named, or None if it may be.
    """

    run: Callable[[Call], tuple[Array, Array]]
    cannot: Callable[[Request], str | None]
    rather_not: Callable[[Request], str | None]


def _one_block(request: Request) -> str | None:
    if request.queries * request.keys <= SMALL:
        return f"{request.queries} x {request.keys} pairs a head are few: the matrix of weights is as cheap"
    return None


def _library_cannot(request: Request, cudnn: bool) -> str | None:
    kinds = {type(term) for term in terms(request.bias)}
    checks = (
        (type(request.score) is not Dot, "it computes dot-product scores only"),
        (not kinds <= {Causal, Window}, "its only biases are causal and window"),
        (request.mask is not None, "it gives rows without keys a uniform softmax, so it takes no mask"),
        (request.dropout is not None, "it has another dropout than by hash"),
        (not (isinstance(request.offset, int) and request.offset == 0), "it has no offset of queries"),
        (
            bool(kinds) and request.queries != request.keys,
            "its causal and window masks need as many queries as keys",
        ),
        (cudnn and request.platform not in ("gpu", "cuda"), "it needs an NVIDIA GPU"),
        (cudnn and request.dtype not in (jnp.float16, jnp.bfloat16), "it takes float16 and bfloat16 only"),
    )
    return next((reason for fails, reason in checks if fails), None)


SMALL = 128 * 128
"""Pairs of one head up to which the full matrix costs no more than blocks do (measured by `bench attention`)."""

_AS_NAMED = "it is taken when named: its lse has no gradient"

IMPLEMENTATIONS: dict[str, Implementation] = {
    "blockwise": Implementation(blockwise, lambda request: None, _one_block),
    "dense": Implementation(dense, lambda request: None, lambda request: None),
    "xla": Implementation(
        functools.partial(library, implementation="xla"),
        functools.partial(_library_cannot, cudnn=False),
        lambda request: _AS_NAMED,
    ),
    "cudnn": Implementation(
        functools.partial(library, implementation="cudnn"),
        functools.partial(_library_cannot, cudnn=True),
        lambda request: _AS_NAMED,
    ),
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation of a call, and why the others were not taken."""

    implementation: str
    reasons: dict[str, str]

    def __str__(self) -> str:
        others = "; ".join(f"not {name}: {reason}" for name, reason in self.reasons.items())
        return f"attention by {self.implementation} ({others})"


def choose(request: Request, implementation: str | None) -> Choice:
    """The named implementation, or the first that serves; raises ValueError with the reasons of all."""
    cannot = {name: entry.cannot(request) for name, entry in IMPLEMENTATIONS.items()}
    rather_not = {name: entry.rather_not(request) for name, entry in IMPLEMENTATIONS.items()}
    if implementation is None:
        chosen = next(name for name in IMPLEMENTATIONS if not cannot[name] and not rather_not[name])
    elif implementation not in IMPLEMENTATIONS:
        raise unknown("attention implementation", implementation, IMPLEMENTATIONS)
    elif cannot[implementation]:
        able = ", ".join(name for name, reason in cannot.items() if reason is None)
        why = "; ".join(f"{name}: {reason}" for name, reason in cannot.items() if reason)
        raise ValueError(f"implementation {implementation!r} cannot serve this call ({why}); these can: {able}")
    else:
        chosen = implementation
    reasons = {name: cannot[name] or rather_not[name] or "it comes later in order" for name in IMPLEMENTATIONS}
    if implementation is not None:
        reasons = {name: cannot[name] or f"{implementation} was asked for" for name in IMPLEMENTATIONS}
    return Choice(chosen, {name: reason for name, reason in reasons.items() if name != chosen})


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
    request = Request.of(q, k, v, score=score, bias=bias, mask=mask, offset=offset, dropout=dropout)
    return choose(request, implementation)


def divided(function: Callable, request: Request) -> Callable:
    """A function of `group`'s arguments under `shard_map` over batch and heads, where such a mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    usable = {
        name: size
        for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if kind == AxisType.Auto and size > 1
    }
    batch = DATA_AXIS if request.batch % usable.get(DATA_AXIS, request.batch + 1) == 0 else None
    heads = MODEL_AXIS if request.key_heads % usable.get(MODEL_AXIS, request.key_heads + 1) == 0 else None
    if batch is None and heads is None:
        return function

    def tokens(leaf: Array) -> PartitionSpec:
        return PartitionSpec(batch if leaf.shape[0] > 1 else None, heads if leaf.shape[1] > 1 else None)

    def parameter(leaf: Array) -> PartitionSpec:
        return PartitionSpec(heads if leaf.shape[0] > 1 else None)

    def whole(leaf: Array) -> PartitionSpec:
        return PartitionSpec()

    kinds = (tokens, tokens, tokens, parameter, parameter, parameter, whole, whole)

    def shards(*arguments: PyTree) -> PyTree:
        specs = (
            *(jax.tree.map(kind, argument) for kind, argument in zip(kinds, arguments, strict=False)),
            PartitionSpec(batch),
            PartitionSpec(heads),
        )
        names = {name for name in (batch, heads) if name}
        # Without vma checks: the backward pass is written by hand, and replicated inputs are summed at the border.
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=specs,
            out_specs=PartitionSpec(batch, heads),
            axis_names=names,
            check_vma=False,
        )(*arguments)

    return shards
