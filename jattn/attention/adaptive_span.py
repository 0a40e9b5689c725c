"""Attention whose heads learn how far back to look, and optionally which distances to leave out periodically.

Sukhbaatar et al. 2019, "Adaptive Attention Span in Transformers", arXiv:1905.07799, section 2.2; the triangle wave is
that of the repository Lookatator/Adaptive-nanoGPT.

    weights_ts = m(t - s) exp(q_t k_s / sqrt(D)) / sum_s' m(t - s') exp(q_t k_s' / sqrt(D))
    m(r) = clip((R + z - r) / R, 0, 1)  [clip(W(r) + 1/2 + o, 0, 1)]        z = max_span sigmoid(w),  o = P rho
    loss term = span_reg mean_h(z),  with the wave: span_reg mean_h((z + R) share)

The paper's S, R, z_i are our max_span, softness, span; its lambda is span_reg times the number of heads over M. W is a
triangle wave of period P and height A = P / 4 (`jattn.core.TriangleWave`), P = period_min + (period_max - period_min)
sigmoid(w'), rho = sigmoid(w'') / 2 - 1/4. The regularizer's share of a period that is let through is b = 1/P + 2 rho +
1/2, or 1 + 1/2 + o - A where b >= 1. Encoders (causal=False) look as far ahead as back: r = |t - s|.

The released code multiplies all pairs and masks; here blocks of keys beyond a head's z + R are not computed where that
pays (`jattn.core.by_head`), and as spans shrink in training fewer are, by the same program. The numbers are the same:
`as_published` changes nothing.

Once training has settled, `frozen` (of a whole model: `jattn.models.freeze_spans`) makes what heads look at known
beforehand: less is computed, and decoding reads unmasked keys alone (`jattn.attention.settled_spans`).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from jattn import core
from jattn.attention import cost
from jattn.attention.base import Attention
from jattn.attention.settled_spans import ByReach, Distances, Within, reaches
from jattn.core import blocks, by_head
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Bool, DTypeLike, Float

# FLOPs of the masks at a lag of a head, shared by the examples, counted as often as XLA computes them: it does so anew
# for the maximum and for the numerators. Even harmonics cost nothing.
_SPAN, _CAUSAL, _WAVE, _HARMONIC = 16, 3, 27, 9
_ADDED = 2  # FLOPs a pair: the addition of the logarithm of the masks, twice too


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spans:
    """What the heads of a layer have learned to look at, for sequences of some length T.

    span: floor(z + R), at most max_span: the span as the released code reports it.
    reach: z + R, the distance at which a head's mask is 0.
    period: P, in tokens; NaN without the wave.
    keys: number of keys that are not masked, its mean over the T queries.
    removed: share of the keys within the span that the wave masks.
    saved: share of the blocks of pairs that are not computed, since they lie beyond the reach of a head that is
      computed alone, or of all (see `jattn.core.by_head`).
    """

    span: Float[Array, " H"]
    reach: Float[Array, " H"]
    period: Float[Array, " H"]
    keys: Float[Array, " H"]
    removed: Float[Array, " H"]
    saved: Float[Array, ""]


class AdaptiveSpanAttention(Attention):
    """Dot-product attention with a learned span, and optionally a learned triangle wave, of each head.

    max_span: the longest span z that can be learned, in tokens; None = max_length. Sequences may be longer.
    max_length: of the model, which sets it.
    softness: R, tokens over which the mask falls from 1 to 0 beyond z.
    span_init: initial z as a share of max_span.
    span_reg: factor of the loss term that shortens spans, sown into the collection "losses".
    periodic: with the triangle wave.
    period_min, period_max: bounds of its period, in tokens; periods begin uniformly spread between them.
    harmonics: terms of its Fourier series, of which the even ones are zero.
    distances: of each head, the only ones that it looks at, ascending; masks keep their values there and no longer
      learn, nor is there a loss term. None = those that the masks leave. Set by `frozen`.
    """

    lacks: ClassVar[Mapping[str, str]] = {"context": "its spans are distances within one sequence"}

    max_span: int | None = None
    max_length: int | None = None
    softness: float | int = 32
    span_init: float | int = 0.5
    span_reg: float | int = 4e-6
    periodic: bool = False
    period_min: float | int = 2.0
    period_max: float | int = 8.0
    harmonics: int = 5
    distances: Distances | None = None

    def __post_init__(self):
        if self.max_span is None and self.max_length is None:
            raise UserError("adaptive span needs max_span, the longest span that can be learned: set it in tokens")
        for name in ("max_span", "max_length", "harmonics"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: it must be at least 1")
        if not self.softness > 0:
            raise UserError(f"softness is {self.softness}: the mask falls over a positive number of tokens, such as 32")
        if not 0 < self.span_init < 1:
            raise UserError(f"span_init is {self.span_init}: it is a share of max_span, above 0 and below 1")
        if self.span_reg < 0:
            raise UserError(f"span_reg is {self.span_reg}: it must be at least 0, which leaves spans free")
        if not 0 < self.period_min < self.period_max:
            raise UserError(
                f"period_min {self.period_min} and period_max {self.period_max} bound no period: "
                "period_min must be above 0 and below period_max"
            )
        if self.distances is not None:
            self._check_distances(self.distances)
        super().__post_init__()

    def _check_distances(self, distances: Distances) -> None:
        if len(distances) != self.num_heads:
            raise UserError(f"distances are those of {len(distances)} heads, the layer has num_heads {self.num_heads}")
        for own in distances:
            if list(own) != sorted(set(own)) or own[:1] < (0,) * len(own[:1]):
                raise UserError(f"distances of a head are {own}: they must ascend and be at least 0")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*B T C"],
        mask: AttentionMask | None = None,
        *,
        context: Float[Array, "*B S X"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*B T C"]:
        """Each token of x attends to those within its heads' spans; see `jattn.attention.base` for the mask."""
        inputs = self.begin(x, mask, context)
        head_dim = self.head_size(x.shape[-1])
        q, k, v = (self.project(name, inputs.x, self.num_heads, head_dim) for name in ("query", "key", "value"))
        params = {"span_logit": self._per_head("span_logit", initializers.constant(_logit(self.span_init)))}
        if self.periodic:
            params["period_logit"] = self._per_head("period_logit", _logistic)
            params["ratio_logit"] = self._per_head("ratio_logit", initializers.zeros)
        q, k = self.turned(inputs, q, k)
        inputs, (k, v) = self.remember(inputs, reach=self._furthest, key=k, value=v)
        if self.distances is None and not self.is_initializing():
            self.sow("losses", "span", self.regularizer(params))
            if self.is_mutable_collection("intermediates"):
                self.sow("intermediates", "spans", self.spans(params, k.shape[2]))
        score, bias, how = core.Dot(head_dim**-0.5), self.bias(params), core
        if self.distances is not None:
            bias, how = Within.of(jax.lax.stop_gradient(bias), self.distances), ByReach(self.distances)
            chosen_freely = self.implementation is None and deterministic and not self.is_asked_to_report()
            if self.decode and x.shape[-2] == 1 and chosen_freely:
                q, k, terms = self.pairs(inputs, q, k, score=score, bias=bias)
                return self.finish(inputs, how.decoded(q, k, v, **terms))
        out = self.attend(inputs, q, k, v, score=score, bias=bias, how=how, deterministic=deterministic)
        return self.finish(inputs, out)

    @nn.nowrap
    def frozen(self, params: Mapping[str, Any]) -> "AdaptiveSpanAttention":
        """The same layer with `distances` fixed at those that its masks leave with these parameters.

        It takes the same parameters and gives the same outputs.

        Raises:
          UserError: the parameters are not known yet (inside of `jax.jit` and the like).
        """
        logits = {name: params[name] for name in ("span_logit", "period_logit", "ratio_logit") if name in params}
        try:
            seen = np.asarray(_seen(self.clone(distances=None), logits))
        except jax.errors.TracerArrayConversionError:
            raise UserError("spans are frozen at given values: freeze them outside of jax.jit, grad and vmap") from None
        return self.clone(distances=tuple(tuple(np.flatnonzero(row).tolist()) for row in seen))

    @nn.nowrap
    def span_and_wave(self, params: Mapping[str, Any]) -> tuple[core.SoftSpan, core.TriangleWave | None]:
        """The masks of a layer that has these parameters ("span_logit" and, with the wave,
        "period_logit" and "ratio_logit")."""
        longest = self.max_length if self.max_span is None else self.max_span
        span = core.SoftSpan(longest * jax.nn.sigmoid(params["span_logit"]), float(self.softness))
        if not self.periodic:
            return span, None
        period = self.period_min + (self.period_max - self.period_min) * jax.nn.sigmoid(params["period_logit"])
        return span, core.TriangleWave(period, 0.5 * jax.nn.sigmoid(params["ratio_logit"]) - 0.25, self.harmonics)

    @nn.nowrap
    def bias(self, params: Mapping[str, Any]) -> core.Bias:
        """The logarithm of the masks of a layer that has these parameters."""
        span, wave = self.span_and_wave(params)
        return span if wave is None else span + wave

    @nn.nowrap
    def regularizer(self, params: Mapping[str, Any]) -> Float[Array, ""]:
        """The loss term of a layer that has these parameters."""
        span, wave = self.span_and_wave(params)
        if wave is None:
            return self.span_reg * span.span.mean()
        share = 1 / wave.period + 2 * wave.ratio + 0.5
        share = jnp.where(share < 1, share, 1.5 + wave.period * (wave.ratio - 0.25))
        return self.span_reg * ((span.span + span.softness) * share).mean()

    @nn.nowrap
    def spans(self, params: Mapping[str, Any], T: int) -> Spans:
        """What a layer that has these parameters looks at in sequences of T tokens."""
        span, wave = jax.lax.stop_gradient(self.span_and_wave(params))
        _, reach = span.reach()
        distance = jnp.arange(T)
        # Keys a query has at each distance, on the average; encoders have them on both sides.
        keys = (1 - distance / T) * jnp.where(distance > 0, 1 if self.causal else 2, 1)
        within = (span(distance) > -jnp.inf) * keys[None]
        seen = within if wave is None else within * (wave(distance) > -jnp.inf)
        longest = self.max_length if self.max_span is None else self.max_span
        return Spans(
            span=jnp.floor(jnp.clip(reach, 0, longest)),
            reach=reach,
            period=jnp.full_like(reach, jnp.nan) if wave is None else wave.period,
            keys=seen.sum(-1),
            removed=1 - seen.sum(-1) / within.sum(-1),
            saved=1 - _visited(self.causal, T, T, reach) / _visited(self.causal, T, T, jnp.full_like(reach, T)),
        )

    def cost(
        self,
        T: int,
        S: int | None = None,
        *,
        width: int,
        batch: int = 1,
        dtype_bytes: int = 4,
        reach: Sequence[float] | None = None,
    ) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens attending to S (None = T, to themselves).

        reach: of each head, as `spans` gives it: only blocks within reach are counted. None = every pair.
        """
        S = T if S is None else S
        H, D = self.num_heads, self.head_size(width)
        sizes = {"batch": batch, "heads": H, "key_heads": H, "features": (D, D), "values": D}
        pairs = cost.attention(T, S, **sizes, score=2 * D + 1 + _ADDED, causal=False, dtype_bytes=dtype_bytes)
        lags = T * S
        if reach is not None:
            grid = blocks.grid(T, S)
            computed = _visited(self.causal, T, S, jnp.asarray(reach)).item() * grid.query_block * grid.key_block
            pairs = dataclasses.replace(pairs, flops=pairs.flops * computed // (H * T * S))
            lags = grid.lags
        wave = self.periodic * (_WAVE + _HARMONIC * ((self.harmonics + 1) // 2))
        masks = lags * H * (_SPAN + _CAUSAL * self.causal + wave)
        total = pairs + cost.Cost(H * (3 if self.periodic else 1), masks, 0)
        for tokens, inputs, outputs in ((T, width, H * D), (S, width, H * D), (S, width, H * D), (T, H * D, width)):
            total += cost.projection(batch * tokens, inputs, outputs, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        return total + cost.Cost(0, batch * H * (T + S) * D * cost.ROTARY * self.rotary, 0)

    @property
    def _furthest(self) -> int:
        """The longest distance that can ever be looked at."""
        if self.distances is not None:
            return max(reaches(self.distances))
        return math.ceil((self.max_length if self.max_span is None else self.max_span) + self.softness) - 1

    def _per_head(self, name: str, init: initializers.Initializer) -> Float[Array, " H"]:
        return self.param(name, nn.with_logical_partitioning(init, ("heads",)), (self.num_heads,))


@functools.partial(jax.jit, static_argnums=0)
def _seen(module: AdaptiveSpanAttention, params: Mapping[str, Any]) -> Bool[Array, "H n"]:
    """Which distances the masks leave, by head: one program for all layers of a model."""
    return module.bias(params)(jnp.arange(module._furthest + 1)) > -jnp.inf


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _visited(causal: bool, T: int, S: int, reach: Float[Array, " H"]) -> Array:
    """Blocks of a head's pairs that are computed for heads of this reach."""
    lo, hi = blocks.whole_lags((0 if causal else -reach, reach))
    return by_head.visited(blocks.grid(T, S), (jnp.broadcast_to(lo, hi.shape), hi))[0]


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _logistic(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, " H"]:
    """What the sigmoid makes uniform."""
    return jax.random.logistic(key, shape, dtype)
