"""Learned biases of the distance |t - s|: a span that ends softly, and a wave that masks periodically.

Both are masks m of values 0 to 1 that multiply the softmax's numerators: m exp(score) = exp(score + log m), so they
are biases log m. A pair whose mask is at most `FLOOR` is no pair at all, as in the released code.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jattn.core.biases import Bias, Reach
from jattn.types import Array, Float, Int

FLOOR = 1e-6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SoftSpan(Bias):
    """Keys up to a distance that each head learns (Sukhbaatar et al. 2019, arXiv:1905.07799, section 2.2).

    With z the span and R the softness, m(r) = clip((R + z - r) / R, 0, 1): 1 up to z, then a ramp of R tokens to 0.
    """

    span: Any  # (H), or what a tree of specifications holds in its place
    softness: float | int = dataclasses.field(default=32.0, metadata={"static": True})

    def __call__(self, lag: Int[Array, "..."]) -> Float[Array, "H ..."]:
        """log m of the distance."""
        span = _by_head(self.span, lag)
        return _log_mask((span + self.softness - _distance(lag, span)) / self.softness)

    def reach(self) -> Reach:
        """Distances below z + R, of each head."""
        return -(self.span + self.softness), self.span + self.softness


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TriangleWave(Bias):
    """Keys in a band of every period, both learned by each head (Lookatator/Adaptive-nanoGPT).

    With P the period and rho the ratio, m(r) = clip(W(r) + 1/2 + P rho, 0, 1), where W is the Fourier series of a
    triangle wave of period P and height P / 4, which falls and rises by one every token, cut after `harmonics` terms
    (the even ones are zero).
    """

    period: Any  # (H)
    ratio: Any  # (H)
    harmonics: int = dataclasses.field(default=5, metadata={"static": True})

    def __call__(self, lag: Int[Array, "..."]) -> Float[Array, "H ..."]:
        """log m of the distance."""
        period, ratio = _by_head(self.period, lag), _by_head(self.ratio, lag)
        distance = _distance(lag, period)
        # Of the exact remainder, so that the phase of long distances does not suffer from rounding.
        turns = jnp.fmod(distance, period) / period
        wave = sum(jnp.cos(2 * math.pi * k * turns) / k**2 for k in range(1, self.harmonics + 1, 2))
        return _log_mask(2 / math.pi**2 * period * wave + 0.5 + period * ratio)


def _by_head(parameter: Float[Array, " H"], lag: Array) -> Float[Array, "H ..."]:
    return parameter.reshape(-1, *(1,) * lag.ndim)


def _distance(lag: Int[Array, "..."], like: Array) -> Float[Array, "1 ..."]:
    return jnp.abs(lag)[None].astype(jnp.promote_types(like.dtype, jnp.float32))


def _log_mask(mask: Array) -> Array:
    """log of the mask clipped to 0 and 1, -inf where it is at most FLOOR.

    At exactly 1 the gradient is that from below (torch's clamp; `jnp.clip` would halve it): spans and distances are
    whole numbers when training begins. What is not taken is replaced before the logarithm, so that no gradient is
    0 * inf.
    """
    kept = mask > FLOOR
    return jnp.where(kept, jnp.log(jnp.where(kept & (mask <= 1), mask, 1.0)), -jnp.inf)
