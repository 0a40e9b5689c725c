"""Measures that physics takes near a critical point, on attention weights and activations.

They say what they say of any system; that a network is critical they do not show (docs/analysis.md).
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from jattn.analysis.patterns import entropy, shares

SAME = 1e-6
"""What differs by this part of its size, by the rounding of float32, is constant."""

STRONG = 2.0
"""A key that is given this many times an equal share passes a cascade on."""


def at_temperature(weights: np.ndarray, temperature: float) -> np.ndarray:
    """Shares of a softmax whose logits are divided by a temperature: those of weights^(1 / temperature).

    Exact where weights are a softmax; keys of weight 0 keep it.
    """
    p = shares(weights)
    with np.errstate(divide="ignore"):
        logits = np.log(p) / temperature
    top = logits.max(-1, keepdims=True)
    return shares(np.exp(logits - np.where(np.isfinite(top), top, 0.0)))


def heat_capacity(p: np.ndarray) -> np.ndarray:
    """d entropy / d ln temperature of each row of shares: the variance of ln p under p."""
    surprise = -np.log(np.where(p > 0, p, 1.0))
    return (p * surprise**2).sum(-1) - entropy(p) ** 2


def participation(p: np.ndarray) -> np.ndarray:
    """The order parameter of each row, sum of p^2: 1/S for uniform shares, 1 for a single key."""
    return (p * p).sum(-1)


def susceptibility(order: np.ndarray, size: int) -> np.ndarray | np.floating:
    """size times the variance of an order parameter over samples, the first axis; 0 where it is constant."""
    variance = np.var(order, axis=0)
    return size * np.where(variance > (SAME * np.mean(order, axis=0)) ** 2, variance, 0.0)


def correlation(fields: np.ndarray, longest: int | None = None, known: np.ndarray | None = None) -> np.ndarray:
    """The connected correlation <d(s) d(s + r)> / <d^2> along the last axis, for r = 0 .. longest.

    Args:
      fields: samples first; d is the deviation from their mean, so that what all samples share does not count;
        NaN where they share everything.
      longest: None = half of the length.
      known: bool, which of the fields exist in a sample; means are over those, and over pairs of those. None = all.
    """
    known = np.ones(fields.shape, bool) if known is None else np.broadcast_to(known, fields.shape)
    mean = np.sum(fields, axis=0, where=known, keepdims=True) / np.maximum(known.sum(0), 1)
    d = np.where(known, fields - mean, 0.0)
    length = d.shape[-1]
    longest = length // 2 if longest is None else longest
    found = np.empty(longest + 1)
    for r in range(longest + 1):
        pairs = np.count_nonzero(known[..., : length - r] & known[..., r:])
        found[r] = np.sum(d[..., : length - r] * d[..., r:]) / max(pairs, 1)
    varies = found[0] > SAME**2 * np.sum(np.square(fields, dtype=np.float64), where=known) / max(np.sum(known), 1)
    return found / found[0] if varies else np.full_like(found, np.nan)


def correlation_length(correlations: np.ndarray, floor: float = 0.05) -> float:
    """xi of exp(-r / xi), by least squares on the logarithm from r = 0 until it first falls below the floor; NaN where
    it does so at once."""
    below = np.flatnonzero(~(correlations > floor))
    stop = below[0] if len(below) else len(correlations)
    if stop < 2:
        return float("nan")
    r = np.arange(stop)
    slope = np.sum(r * np.log(correlations[:stop])) / np.sum(r * r)
    return float(-1 / slope) if slope < 0 else float("inf")


def strong_links(weights: np.ndarray, allowed: np.ndarray, strong: float = STRONG) -> np.ndarray:
    """bool (T, S): the query gives the key at least `strong` times an equal share, by the mean over heads (H, T, S)."""
    p = shares(weights).mean(0)
    keys = np.maximum(allowed.sum(-1, keepdims=True), 1)
    return (p >= strong / keys) & allowed


def cascade_sizes(links: Sequence[np.ndarray | sparse.spmatrix]) -> np.ndarray:
    """How many places are reached from each place of the first layer, itself counted: (S,).

    Args:
      links: layer by layer, (T, S), true where place t of the next layer takes from place s of this one.
    """
    first = sparse.csr_matrix(links[0], dtype=np.int8)
    reached = sparse.identity(first.shape[1], dtype=np.int8, format="csr")
    sizes = np.ones(first.shape[1], np.int64)
    for layer in links:
        reached = ((sparse.csr_matrix(layer, dtype=np.int32) @ reached) > 0).astype(np.int8)
        sizes += np.asarray(reached.sum(0, dtype=np.int64)).ravel()
    return sizes


def growth(states: Sequence[np.ndarray], perturbed: Sequence[np.ndarray], real: np.ndarray | None = None) -> np.ndarray:
    """ln of the factor by which each layer lengthens a small difference, mean over examples: (layers,).

    Args:
      states, perturbed: what enters the first layer and what leaves each, examples first, without and with the
        perturbation.
      real: bool (N, T), tokens of (N, T, C) that are no padding, whose difference counts; None = all.
    """
    apart = []
    for x, y in zip(states, perturbed, strict=True):
        difference = np.asarray(y, np.float64) - x
        if real is not None:
            difference = np.where(real[..., None], difference, 0.0)[real.any(1)]
        apart.append(np.linalg.norm(difference.reshape(len(difference), -1), axis=-1))
    return np.diff(np.log(apart), axis=0).mean(-1)
