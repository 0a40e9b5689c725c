"""Natural attention: softmax attention that reports its energies to the optimizer.

The mechanism of the repository jeroaranda/naturalattention (commit d0fb925). Its forward pass is that of softmax
attention (Vaswani et al. 2017, arXiv:1706.03762); what is new is that the scores, the "energies", are handed on:

    e_ts = q_t . k_s / sqrt(D)        head = m softmax(e + M) V        E = mean |e| over all pairs that M allows

and `jattn.optim.attention_informed` scales the gradient of the whole block by 1 + tanh(0.1 E). m is the head mask, M
is 0 at allowed pairs and -inf at hidden ones; n_embd, n_head are our C, H.

With `as_published`, M is `mask_value` at hidden pairs, belongs to the energies, and their mean goes over all pairs,
those of padding included: hiding pairs makes E huge, and the factor stays at 2 whatever the scores are.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jattn import core
from jattn.attention import cost
from jattn.attention.base import Attention, Inputs, mean_over_pairs, real_pairs, with_riders
from jattn.errors import UserError, unknown
from jattn.types import Array, AttentionMask, Float, Tokens

_FAR = -1e3
"""Hides a pair as -1e9 does, and keeps the digits of the scores where all pairs of a query are hidden."""


def _root_mean_square(rows: core.Statistics, pairs: Array) -> Float[Array, ""]:
    return jnp.sqrt(mean_over_pairs(rows.square, pairs))


def _standard_deviation(rows: core.Statistics, pairs: Array) -> Float[Array, ""]:
    return jnp.sqrt(mean_over_pairs(jnp.maximum(rows.square - jnp.square(rows.mean), 0.0), pairs))


ENERGIES: dict[str, Callable[[core.Statistics, Array], Float[Array, ""]]] = {
    "mean_absolute": lambda rows, pairs: mean_over_pairs(rows.energy, pairs),
    "root_mean_square": _root_mean_square,
    "standard_deviation": _standard_deviation,
}
"""Name -> the energy of a layer, of the statistics and the number of pairs of each query."""


class Released(NamedTuple):
    """What the call of the released class takes besides x.

    additive_mask: M, broadcast to (B, H, T, S).
    head_mask: m, (B or 1, H or 1, T or 1, 1).
    past: keys and values (B, H, P, D) of earlier tokens, which go before those of x.
    """

    additive_mask: Float[Array, "..."] | None = None
    head_mask: Float[Array, "b h t 1"] | None = None
    past: tuple[Float[Array, "B H P D"], Float[Array, "B H P D"]] | None = None


class NaturalAttention(Attention):
    """Multi-head dot-product attention with a choice of energy.

    head_mask: a number for each head, which multiplies its output; None = 1. Neither energies nor `weights` have it.
    energy_statistic: of the scores of all allowed pairs: mean_absolute (the source's), root_mean_square, or
      standard_deviation (within a query, pooled over queries), which alone stays the same when a query's scores are
      shifted, as softmax does.
    mask_value: with `as_published`, what is added to the scores of hidden pairs.
    """

    head_mask: tuple[float | int, ...] | None = None
    energy_statistic: Literal["mean_absolute", "root_mean_square", "standard_deviation"] = "mean_absolute"
    mask_value: float | int = -1e4

    def __post_init__(self):
        if self.head_mask is not None and len(self.head_mask) != self.num_heads:
            raise UserError(f"head_mask has {len(self.head_mask)} numbers: give one for each of {self.num_heads} heads")
        if self.energy_statistic not in ENERGIES:
            raise unknown("energy_statistic", self.energy_statistic, ENERGIES)
        if not self.mask_value < 0:
            raise UserError(f"mask_value {self.mask_value} hides no pair: choose a number below 0, such as -1e4")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*B T C"],
        mask: AttentionMask | None = None,
        *,
        context: Float[Array, "*B S X"] | None = None,
        deterministic: bool = True,
        released: Released | None = None,
    ) -> Float[Array, "*B T C"]:
        """Each token of x attends to the tokens of the context, or of x; see `jattn.attention.base` for the mask.

        released: arguments of the released class, in place of a mask; with `as_published` only.
        """
        if released is not None and not (self.as_published and mask is None):
            raise UserError("the released class's arguments need as_published=True, and take the place of a mask")
        released = released or Released()
        inputs = self.begin(x, mask, context)
        if released.past is not None:
            inputs = inputs._replace(offset=released.past[0].shape[2])
        head_dim = self.head_size(x.shape[-1])
        q = self.project("query", inputs.x, self.num_heads, head_dim)
        k = self.project("key", inputs.context, self.num_heads, head_dim)
        v = self.project("value", inputs.context, self.num_heads, head_dim)
        q, k = self.turned(inputs, q, k)
        inputs, (k, v) = self.remember(inputs, key=k, value=v)
        if released.past is not None:
            k, v = (jnp.concatenate(parts, axis=2) for parts in zip(released.past, (k, v), strict=True))
        if released.additive_mask is not None:
            q = with_riders(q, _added(released.additive_mask, q.shape[2], k.shape[2]))
        out = self.attend(inputs, q, k, v, score=core.Dot(head_dim**-0.5), deterministic=deterministic)
        head_mask = released.head_mask
        if self.head_mask is not None:
            head_mask = jnp.asarray(self.head_mask)[None, :, None, None]
        return self.finish(inputs, out if head_mask is None else out * head_mask.astype(out.dtype))

    def pairs(
        self, inputs: Inputs, q: Tokens, k: Tokens, *, score: Any, bias: Any = None, mask: Any = None
    ) -> tuple[Tokens, Tokens, dict[str, Any]]:
        """As of all mechanisms; with `as_published`, hidden pairs take part with a lower score."""
        q, k, terms = super().pairs(inputs, q, k, score=score, bias=bias, mask=mask)
        if not self.as_published:
            return q, k, terms
        masks = ([] if terms["mask"] is None else [terms["mask"]]) + [core.Past()] * self.causal
        if isinstance(q, Mapping) and "added" in q:
            score = core.Added(score, "added_near")
        if masks:
            score = core.Penalized(score, core.All(tuple(masks)), max(float(self.mask_value), _FAR))
        return q, k, terms | {"score": score, "bias": None, "mask": None}

    def energy_of(
        self,
        inputs: Inputs,
        q: Tokens,
        k: Tokens,
        lse: Float[Array, "B H T"],
        terms: dict[str, Any],
        rows: core.Statistics,
    ) -> Float[Array, ""]:
        """The statistic asked for; with `as_published`, of all pairs, with what hides them in their scores."""
        energy = ENERGIES[self.energy_statistic]
        if not self.as_published:
            return energy(rows, real_pairs(inputs, rows))
        rows = core.statistics(q, k, lse, **(terms | {"score": self._with_mask_value(terms["score"])}))
        # Scores of -inf are the only ones that the statistics leave out.
        everything = rows.pairs.min() == core.features(k).shape[2]
        return jnp.where(everything, energy(rows, rows.pairs), jnp.inf)

    def _with_mask_value(self, score: Any) -> Any:
        """A score of `pairs` with what hides its pairs in full."""
        if isinstance(score, core.Penalized):
            inner = self._with_mask_value(score.score)
            return dataclasses.replace(score, score=inner, value=float(self.mask_value))
        return dataclasses.replace(score, rider="added") if isinstance(score, core.Added) else score

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens attending to S (None = T, to themselves)."""
        S = T if S is None else S
        H, D = self.num_heads, self.head_size(width)
        total = cost.attention(
            T,
            S,
            batch=batch,
            heads=H,
            key_heads=H,
            score=2 * D + 1 + self.as_published * self.causal,
            features=(D, D),
            values=D,
            causal=self.causal,
            dtype_bytes=dtype_bytes,
        )
        for tokens, inputs, outputs in ((T, width, H * D), (S, width, H * D), (S, width, H * D), (T, H * D, width)):
            total += cost.projection(batch * tokens, inputs, outputs, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        masked = batch * H * T * D * (self.head_mask is not None)
        return total + cost.Cost(0, batch * H * (T + S) * D * cost.ROTARY * self.rotary + masked, 0)


def _added(additive_mask: Float[Array, "..."], queries: int, keys: int) -> dict[str, Array]:
    """Riders of the queries for an additive mask: as it is, and shifted to a largest value of 0 for each query.

    The softmax is that of both. Where all pairs of a query are hidden, only the second keeps the digits of its scores.
    """
    mask = additive_mask.reshape((1,) * (4 - additive_mask.ndim) + additive_mask.shape)
    mask = jnp.broadcast_to(mask, (*mask.shape[:2], queries, keys)).astype(jnp.float32)
    largest = mask.max(-1, keepdims=True)
    return {"added": mask, "added_near": mask - jnp.where(jnp.isfinite(largest), largest, 0.0)}
