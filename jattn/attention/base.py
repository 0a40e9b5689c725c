"""What all mechanisms share: fields, projections to heads and back, masks, decoding, and what they report.

A mechanism's module subclasses `Attention`, adds its own fields, and computes, in one compact `__call__`,

    inputs = self.begin(x, mask, context)              batch axes flattened, arguments checked
    q = self.project("query", inputs.x, ...)           head-major, B H T D
    inputs, (k, v) = self.remember(inputs, key=k, value=v)
    out = self.attend(inputs, q, k, v, score=..., deterministic=deterministic)
    return self.finish(inputs, out)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn import core
from jattn.attention import cache, value_gradient
from jattn.attention.projections import FromHeads, ToHeads
from jattn.attention.rotary import rotate
from jattn.errors import UserError
from jattn.types import Array, Bool, DTypeLike, Float, Int, Tokens

FEATURES = {
    "bidirectional": "bidirectional form (causal=False)",
    "causal": "causal form (causal=True)",
    "context": "cross-attention to a context",
    "segments": "segment ids of packed sequences as mask",
    "pairs": "masks of pairs of query and key",
    "truncation": "outputs of real tokens that do not depend on how much padding follows them",
    "decode": "token-by-token decoding with a cache",
    "dropout": "dropout of attention weights",
    "probabilities": "weights that are >= 0 and sum to 1 over the keys",
    "energies": "scores of pairs, whose mean magnitude is sown",
    "implementations": "choice of implementation",
    "rotary": "rotary positions",
}
"""What a mechanism has unless its `lacks` says why not."""


class Lacking(UserError):
    """A mechanism is asked for a feature that it lacks."""

    def __init__(self, mechanism: str, feature: str, reason: str):
        super().__init__(f"{mechanism} has no {FEATURES[feature]}: {reason}")
        self.feature = feature


class Inputs(NamedTuple):
    """The arguments of one call with the batch axes `batch` flattened into B.

    context: what keys and values are made of: x itself, or the context of cross-attention.
    query_mask, key_mask: True = a real token, or segment ids, of x and of the keys; None = all real.
    pair_mask: True = query t may attend to key s, for all heads (h = 1) or each; None = all may.
    offset: the position of x's first token; after `remember`, among the keys.
    fits: whether a decode cache had room for x.
    """

    x: Float[Array, "B T C"]
    context: Float[Array, "B S X"]
    query_mask: Bool[Array, "B T"] | Int[Array, "B T"] | None
    key_mask: Bool[Array, "B S"] | Int[Array, "B S"] | None
    pair_mask: Bool[Array, "B h T S"] | None
    offset: Int[Array, ""] | int
    fits: Bool[Array, ""] | bool
    batch: tuple[int, ...]


class Attention(nn.Module):
    """The fields and the plumbing of a mechanism's module; `__call__` is the mechanism's own.

    num_heads: H, query heads.
    head_dim: D, features of a head; None = C / H.
    causal: no output depends on a later token.
    dropout_rate: share of attention weights dropped in training, with rng "dropout".
    use_bias: projections have biases.
    dtype: of the computation; None = promoted from input and parameters, which are float32.
    implementation: of the attention core; None = the fastest that can.
    decode: keep a cache (see `jattn.attention.cache`).
    rotary: queries and keys are turned by their positions (see `jattn.attention.rotary`); a context's count from 0.
    rotary_base: the longest wavelength is 2 pi rotary_base.
    as_published: as the authors' released code, bugs included, where it differs from the paper.
    """

    lacks: ClassVar[Mapping[str, str]] = {}
    """Which of `FEATURES` the mechanism does not have, and why."""

    keeps: ClassVar[frozenset[str]] = frozenset()
    """Fields that stay at the mechanism's own default, or its option, where a model sets them for all others."""

    num_heads: int
    head_dim: int | None = None
    causal: bool = False
    dropout_rate: float | int = 0.0
    use_bias: bool = True
    dtype: DTypeLike | None = None
    implementation: str | None = None
    decode: bool = False
    rotary: bool = False
    rotary_base: float | int = 10000.0
    as_published: bool = False

    def __post_init__(self):
        asked_for = {
            "causal": self.causal,
            "bidirectional": not self.causal,
            "decode": self.decode,
            "dropout": self.dropout_rate > 0,
            "implementations": self.implementation is not None,
            "rotary": self.rotary,
        }
        for feature, asked in asked_for.items():
            if asked:
                self._require(feature)
        if self.decode and not self.causal:
            raise UserError("decode=True needs causal=True: a token's output may not depend on later tokens")
        if not 0.0 <= self.dropout_rate < 1.0:
            raise UserError(f"dropout_rate {self.dropout_rate} is no share: it must lie in [0, 1)")
        for name, size in (("num_heads", self.num_heads), ("head_dim", self.head_dim)):
            if size is not None and size < 1:
                raise UserError(f"{name} is {size}: it must be at least 1")
        super().__post_init__()

    def begin(self, x: Array, mask: Array | None, context: Array | None) -> Inputs:
        """The call's inputs: checked, batch axes flattened.

        Raises:
          UserError: shapes or types do not fit together, or the mechanism lacks what the call asks for.
        """
        batch, length = x.shape[:-2], x.shape[-2]
        keys = x if context is None else context
        if keys.shape[:-2] != batch:
            raise UserError(f"context has batch axes {keys.shape[:-2]}, x has {batch}: they must be the same")
        if context is not None:
            self._require("context")
            if self.decode:
                raise UserError("decode=True keeps a cache of self-attention: build cross-attention with decode=False")
        key_mask = pair_mask = None
        if mask is not None and mask.ndim > len(batch) + 1:
            pair_mask = self._pair_mask(mask, batch, length, keys.shape[-2])
        elif mask is not None:
            if mask.shape != keys.shape[:-1]:
                raise UserError(f"mask has shape {mask.shape}, it must be {keys.shape[:-1]}: one entry a key")
            if mask.dtype != jnp.bool_:
                if not jnp.issubdtype(mask.dtype, jnp.integer):
                    raise UserError(f"mask is {mask.dtype}: it must be bool (True = real) or integer (segment ids)")
                self._require("segments")
                if context is not None:
                    raise UserError("segment ids are those of self-attention: with a context, give a bool mask")
            key_mask = mask.reshape(-1, mask.shape[-1])
        return Inputs(
            x=x.reshape(-1, length, x.shape[-1]),
            context=keys.reshape(-1, *keys.shape[-2:]),
            query_mask=key_mask if context is None else None,
            key_mask=key_mask,
            pair_mask=pair_mask,
            offset=cache.position(self),
            fits=True,
            batch=batch,
        )

    def _pair_mask(self, mask: Array, batch: tuple[int, ...], queries: int, keys: int) -> Bool[Array, "B h T S"]:
        self._require("pairs")
        if self.decode:
            raise UserError("decode=True takes a mask of keys: a mask of pairs is that of a call on whole sequences")
        allowed = tuple((*batch, *heads, queries, keys) for heads in ((), (1,), (self.num_heads,)))
        if mask.shape not in allowed:
            raise UserError(f"mask has shape {mask.shape}, a mask of pairs has one of {', '.join(map(str, allowed))}")
        if mask.dtype != jnp.bool_:
            raise UserError(f"mask of pairs is {mask.dtype}: it must be bool, True = may attend")
        return mask.reshape(-1, mask.shape[-3] if mask.ndim > len(batch) + 2 else 1, queries, keys)

    def head_size(self, width: int) -> int:
        """D: the field, or the width divided by the heads.

        Raises:
          UserError: the heads do not divide the width.
        """
        if self.head_dim is not None:
            return self.head_dim
        if width % self.num_heads:
            raise UserError(
                f"num_heads {self.num_heads} does not divide the width {width}: "
                f"choose from {', '.join(map(str, divisors(width)))}, or set head_dim"
            )
        return width // self.num_heads

    def project(self, name: str, x: Float[Array, "B T C"], heads: int, head_dim: int) -> Float[Array, "B h T d"]:
        """x under the projection of this name (its parameters' path), head-major."""
        return ToHeads(heads, head_dim, self.use_bias, self.dtype, name=name)(x)

    def turned(self, inputs: Inputs, *heads: Float[Array, "B _ _ D"]) -> tuple[Float[Array, "B _ _ D"], ...]:
        """Queries or keys of this call, turned by their positions where `rotary` is set."""
        if not self.rotary:
            return heads
        return tuple(rotate(features, inputs.offset, self.rotary_base) for features in heads)

    def remember(
        self, inputs: Inputs, *, reach: int | None = None, **tokens: Array
    ) -> tuple[Inputs, tuple[Array, ...]]:
        """With `decode`, the arrays (B K T ...) and the mask of the tokens seen so far, of no more than `reach` before
        this call's if that is given; without, those given."""
        if not self.decode:
            return inputs, tuple(tokens.values())
        real = jnp.ones(inputs.x.shape[:2], jnp.int32) if inputs.key_mask is None else inputs.key_mask
        cached, fits, offset = cache.remember(self, tokens | {"mask": real.astype(jnp.int32)[:, None]}, reach)
        segments = inputs.key_mask is not None and inputs.key_mask.dtype != jnp.bool_
        seen = cached.pop("mask")[:, 0]
        inputs = inputs._replace(key_mask=seen if segments else seen != 0, fits=fits, offset=offset)
        return inputs, tuple(cached.values())

    def attend(
        self,
        inputs: Inputs,
        q: Tokens,
        k: Tokens,
        v: Float[Array, "B K S E"],
        *,
        score: Any,
        bias: Any = None,
        mask: Any = None,
        how: Any = core,
        deterministic: bool = True,
        hidden_score: float | None = None,
        over_queries: bool = False,
    ) -> Float[Array, "B H T E"]:
        """Softmax attention under the call's masks, causality and dropout; sows what is asked for (see `report`).

        mask: of the core, hides pairs besides those that the call's mask hides.
        how: has functions `attend` and `statistics` like the core's, that give the same in less time for the pairs that
          bias and mask allow (see `jattn.attention.folding`). Calls that decode or bring a mask of pairs go to the
          core.
        With `hidden_score`, pairs that masks hide are not left out but get this score.
        With `over_queries`, each key's weights sum to 1 over the real queries, in place of each query's over the keys:
        with as many key heads as query heads, not causal and without a bias.
        """
        real = inputs.query_mask
        if over_queries and real is not None and real.dtype == jnp.bool_:
            q = with_riders(q, {"valid": real[:, None]})
            mask = core.Exchanged(core.Padding()) if mask is None else mask & core.Exchanged(core.Padding())
        q, k, terms = self.pairs(inputs, q, k, score=score, bias=bias, mask=mask)
        if hidden_score is not None and terms["mask"] is not None:
            terms |= {"score": core.Filled(score, terms["mask"], hidden_score), "mask": None}
        if over_queries:
            shared = {"score": terms["score"], "mask": terms["mask"], "implementation": self.implementation}
            k, terms["score"] = core.over_queries(q, k, **shared)
        v = value_gradient.observed(self, inputs, q, k, v, terms)
        dropout = None
        if self.dropout_rate and not deterministic:
            seed = jax.random.bits(self.make_rng("dropout"), dtype=jnp.uint32)
            dropout = core.Dropout(float(self.dropout_rate), seed)
        if self.decode or inputs.pair_mask is not None:
            how = core
        out, lse = how.attend(q, k, v, **terms, dropout=dropout, implementation=self.implementation)
        self.report(inputs, q, k, lse, terms, how)
        return (out * jnp.exp(lse)[..., None]).astype(out.dtype) if over_queries else out

    def pairs(
        self, inputs: Inputs, q: Tokens, k: Tokens, *, score: Any, bias: Any = None, mask: Any = None
    ) -> tuple[Tokens, Tokens, dict[str, Any]]:
        """Which pairs `attend` scores, and how: q and k with what their masks read, and the core's terms."""
        q_riders, k_riders, of_call = _riders(inputs)
        if q_riders:
            q = with_riders(q, q_riders)
        if k_riders:
            k = with_riders(k, k_riders)
        if of_call is not None:
            mask = of_call if mask is None else of_call & mask
        if self.causal:
            bias = core.Causal() if bias is None else core.Causal() + bias
        return q, k, {"score": score, "bias": bias, "mask": mask, "offset": inputs.offset}

    def report(
        self,
        inputs: Inputs,
        q: Tokens,
        k: Tokens,
        lse: Float[Array, "B H T"],
        terms: dict[str, Any],
        how: Any = core,
    ) -> None:
        """Sows into those of these collections that are mutable, except at `init`:

        "energies": `energy`, a scalar without gradient (see `energy_of`). A mechanism that is a part of another one
          sows it as that one's, so that it belongs to the block that both are in.
        "intermediates": `statistics` (of each row's shares, B H T) and `weights` (*B H T S, without dropout).
        """
        if not self.is_asked_to_report():
            return
        over_queries = isinstance(terms["score"], core.OverQueries)
        keys = visible_keys(inputs, jax.tree.leaves(k)[0].shape[2], causal=self.causal)
        rows = how.statistics(q, k, lse, **terms, keys=keys)
        if over_queries:  # the logits are the logarithms of the weights
            own = core.statistics(q, k, lse, **(terms | {"score": terms["score"].score}))
            rows = dataclasses.replace(rows, energy=own.energy, mean=own.mean, square=own.square)

        def weights() -> Array:
            found = core.weights(q, k, **terms)
            return found * jnp.exp(lse)[..., None] if over_queries else found

        self.sow_report(inputs, self.energy_of(inputs, q, k, lse, terms, rows), rows, weights)

    def is_asked_to_report(self) -> bool:
        """Whether a collection that `report` sows into is mutable, except at `init`."""
        asked = self.is_mutable_collection("energies") or self.is_mutable_collection("intermediates")
        return asked and not self.is_initializing()

    def sow_report(
        self,
        inputs: Inputs,
        energy: Float[Array, ""],
        rows: core.Statistics,
        weights: Callable[[], Float[Array, "B H T S"]],
    ) -> None:
        """Sows what `report` does, for a mechanism that finds it in a way of its own."""
        owner = self
        while isinstance(owner.parent, Attention):
            owner = owner.parent
        owner.sow("energies", "energy", energy)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "statistics", rows)
            found = weights()
            self.sow("intermediates", "weights", found.reshape(*inputs.batch, *found.shape[1:]))

    def energy_of(
        self,
        inputs: Inputs,
        q: Tokens,
        k: Tokens,
        lse: Float[Array, "B H T"],
        terms: dict[str, Any],
        rows: core.Statistics,
    ) -> Float[Array, ""]:
        """The layer's energy, of what `report` is given and the statistics of its rows: the mean |score| over allowed
        pairs of real queries."""
        return mean_over_pairs(rows.energy, real_pairs(inputs, rows))

    def finish(self, inputs: Inputs, out: Float[Array, "B H T E"]) -> Float[Array, "*B T C"]:
        """Heads merged by the projection "out" to x's width, batch axes restored; NaN past the end of a cache."""
        y = FromHeads(inputs.x.shape[-1], self.use_bias, self.dtype, name="out")(out)
        if inputs.fits is not True:
            y = jnp.where(inputs.fits, y, jnp.nan)
        return y.reshape(*inputs.batch, *y.shape[1:])

    def weights(
        self, x: Float[Array, "*B T C"], mask: Array | None = None, *, context: Array | None = None
    ) -> Float[Array, "*B H T S"]:
        """The weights of an evaluation's call in float32, through the dense path: `module.apply(variables, x,
        method="weights")`. Rows without a key are zero."""
        variables = {name: value for name, value in self.variables.items() if name not in ("cache", "intermediates")}
        reader = self.clone(parent=None, decode=False, dropout_rate=0.0)
        _, sown = reader.apply(variables, x, mask, context=context, mutable=["intermediates"])
        return sown["intermediates"]["weights"][0]

    def _require(self, feature: str) -> None:
        if feature in self.lacks:
            raise Lacking(type(self).__name__, feature, self.lacks[feature])


def divisors(number: int) -> list[int]:
    """The numbers that divide it, ascending."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def real_pairs(inputs: Inputs, rows: core.Statistics) -> Float[Array, "B H T"]:
    """Numbers of allowed pairs of each query, 0 for those that are padding."""
    if inputs.query_mask is None:
        return rows.pairs
    return jnp.where((inputs.query_mask != 0)[:, None], rows.pairs, 0.0)


def visible_keys(inputs: Inputs, slots: int, *, causal: bool) -> Int[Array, "b h T"]:
    """How many of all keys the call's mask and causality leave each query, whatever the mechanism makes of them."""
    queries = inputs.offset + jnp.arange(inputs.x.shape[1])
    visible = jnp.arange(slots)[None] <= queries[:, None] if causal else jnp.ones((queries.size, slots), bool)
    visible = visible[None, None]
    if inputs.pair_mask is not None:
        visible = visible & inputs.pair_mask
    if inputs.key_mask is not None:
        visible = visible & (inputs.key_mask != 0)[:, None, None]
        if inputs.key_mask.dtype != jnp.bool_:
            visible = visible & (inputs.query_mask[:, None, :, None] == inputs.key_mask[:, None, None])
    return visible.sum(-1, dtype=jnp.int32)


def mean_over_pairs(values: Float[Array, "B H T"], pairs: Float[Array, "B H T"]) -> Float[Array, ""]:
    """The mean over all pairs of what is given as the means over each query's."""
    return jnp.sum(values * pairs) / jnp.maximum(jnp.sum(pairs), 1.0)


def _riders(inputs: Inputs) -> tuple[dict[str, Array], dict[str, Array], Any]:
    """What rides along with queries and keys to express the call's mask, and the core's mask that reads it."""
    if inputs.pair_mask is not None:
        return {"allowed": inputs.pair_mask}, {}, core.Allowed()
    if inputs.key_mask is None:
        return {}, {}, None
    key_mask = inputs.key_mask[:, None]
    if key_mask.dtype == jnp.bool_:
        return {}, {"valid": key_mask}, core.Padding()
    # Padding has segment 0 too: without the second mask padded tokens would attend to each other.
    queries = {"segment": inputs.query_mask[:, None]}
    return queries, {"segment": key_mask, "valid": key_mask != 0}, core.Segments() & core.Padding()


def with_riders(tokens: Tokens, riders: dict[str, Array]) -> Tokens:
    """Tokens as a dict that has these entries beside their features."""
    return (tokens if isinstance(tokens, Mapping) else {"features": tokens}) | riders
