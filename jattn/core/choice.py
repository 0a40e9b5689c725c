"""Which implementation serves a call, and why the others do not."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core.call import Call
from jattn.core.dropout import Dropout
from jattn.errors import UserError, unknown
from jattn.types import Array, Tokens


@dataclasses.dataclass(frozen=True)
class Request:
    """What the choice of an implementation depends on: sizes, kinds, platform, the name asked for; no values."""

    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    q: Tokens
    k: Tokens
    v: Any
    score: Any
    bias: Any
    mask: Any
    offset: Any
    dropout: Dropout | None
    platform: str
    named: str | None

    @classmethod
    def of(
        cls,
        q: Tokens,
        k: Tokens,
        v: Any,
        *,
        score: Any,
        bias: Any,
        mask: Any,
        offset: Any,
        dropout: Any,
        named: str | None = None,
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
        return cls(batch, heads, key_heads, queries, keys, q, k, v, score, bias, mask, offset, dropout, platform, named)


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute attention.

    cannot: why it cannot serve a request, or None if it can.
    rather_not: why it is not taken unless named, or None if it may be.
    made_for: the platform whose kernels it has, which others could only interpret; None if it runs on all.
    """

    run: Callable[[Call], tuple[Array, Array]]
    cannot: Callable[[Request], str | None]
    rather_not: Callable[[Request], str | None]
    made_for: str | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation of a call, and why the others were not taken."""

    implementation: str
    reasons: dict[str, str]

    def __str__(self) -> str:
        others = "; ".join(f"not {name}: {reason}" for name, reason in self.reasons.items())
        return f"attention by {self.implementation} ({others})"


_taken: ContextVar[list[str] | None] = ContextVar("taken", default=None)


@contextlib.contextmanager
def implementations_taken() -> Iterator[list[str]]:
    """The names of the implementations that `attend` takes within it, a name for each call that runs or is traced."""
    taken: list[str] = []
    token = _taken.set(taken)
    try:
        yield taken
    finally:
        _taken.reset(token)


def take(table: Mapping[str, Implementation], request: Request) -> Callable[[Call], tuple[Array, Array]]:
    """What computes the request, noted for `implementations_taken`."""
    name = choose(table, request).implementation
    taken = _taken.get()
    if taken is not None:
        taken.append(name)
    return table[name].run


def choose(table: Mapping[str, Implementation], request: Request) -> Choice:
    """The named implementation of the table, or the first that serves; raises with the reasons of all."""
    implementation = request.named
    cannot = {name: entry.cannot(request) for name, entry in table.items()}
    rather_not = {name: entry.rather_not(request) for name, entry in table.items()}
    if implementation is None:
        chosen = next(name for name in table if not cannot[name] and not rather_not[name])
    elif implementation not in table:
        raise unknown("attention implementation", implementation, table)
    elif cannot[implementation]:
        able = ", ".join(name for name, reason in cannot.items() if reason is None)
        why = "; ".join(f"{name}: {reason}" for name, reason in cannot.items() if reason)
        raise UserError(f"implementation {implementation!r} cannot serve this call ({why}); these can: {able}")
    else:
        chosen = implementation
    reasons = {name: cannot[name] or rather_not[name] or "it comes later in the order of preference" for name in table}
    if implementation is not None:
        reasons = {name: cannot[name] or f"{implementation} was asked for" for name in table}
    return Choice(chosen, {name: reason for name, reason in reasons.items() if name != chosen})
