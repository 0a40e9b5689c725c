"""Statistics of attention weights, in NumPy, by brute force on the dense weights.

Most are statistics of a distribution over the keys. Where a mechanism's weights are none (the norms of a convolution's
kernels, weights that sum to 1 over the queries), they are those of its shares: |weights| divided by their sum over the
keys. Queries without keys, and those that are padding, are left out of every mean.

N examples, H heads, T queries, S keys. A map is the matrix of one head's weights for one example.
"""

from collections.abc import Sequence

import numpy as np

from jattn.core import SPARSE

Maps = np.ndarray
"""Float64 (N, H, T, S)."""

TINY = 1e-12
"""Weight below which a row is taken for one without keys."""

TOP = (1, 4, 16)
"""Numbers of keys whose mass is reported."""

TITLES = {
    "entropy": "entropy, nats",
    "keys": "effective number of keys",
    "distance": "distance, tokens",
    "diagonal": "share on itself",
    "first": "share on token 0",
    "top_1": "largest share",
    "sparsity": "sparsity",
    "effective_rank": "effective rank",
    "stability": "stability",
}
"""Of statistics that are drawn, what an axis says."""


def shares(weights: Maps) -> Maps:
    """|weights| divided by their sum over the keys; rows without weight stay zero."""
    size = np.abs(np.asarray(weights, np.float64))
    total = size.sum(-1, keepdims=True)
    return np.divide(size, total, out=np.zeros_like(size), where=total > TINY)


def sums_to_one(weights: Maps, real: np.ndarray) -> bool:
    """Whether each real query's weights sum to 1 over the keys, if it has keys at all."""
    counted = real[:, None] & (np.abs(weights).sum(-1) > TINY)
    return bool(np.abs(weights.sum(-1)[counted] - 1).max(initial=0.0) <= 1e-3)


def entropy(p: Maps) -> np.ndarray:
    """Of each row of shares, in nats: (N, H, T)."""
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def distance(p: Maps) -> np.ndarray:
    """The mean |t - s| under each row's shares, in tokens: (N, H, T)."""
    lag = np.abs(np.arange(p.shape[-2])[:, None] - np.arange(p.shape[-1])[None, :])
    return np.einsum("nhts,ts->nht", p, lag.astype(p.dtype))


def on_diagonal(p: Maps) -> np.ndarray:
    """The share that a token gives itself: (N, H, T); 0 for queries past the last key."""
    found = np.zeros(p.shape[:-1], p.dtype)
    own = np.diagonal(p, axis1=-2, axis2=-1)
    found[..., : own.shape[-1]] = own
    return found


def top(p: Maps, count: int) -> np.ndarray:
    """The share of the `count` largest keys of each row: (N, H, T)."""
    if count >= p.shape[-1]:
        return p.sum(-1)
    return np.partition(p, -count, axis=-1)[..., -count:].sum(-1)


def sparsity(p: Maps, allowed: np.ndarray) -> np.ndarray:
    """The part of each row's allowed keys that gets less than `SPARSE` of an equal share: (N, H, T).

    Args:
      p: shares.
      allowed: bool (N, T, S), the keys that a query could attend to.
    """
    keys = np.maximum(allowed.sum(-1), 1)
    little = (p < (SPARSE / keys)[:, None, :, None]) & allowed[:, None]
    return little.sum(-1) / keys[:, None]


def effective_rank(weights: Maps) -> np.ndarray:
    """exp of the entropy of each map's singular values divided by their sum (Roy and Vetterli 2007): (N, H).

    Between 1 (all queries attend alike) and T; 0 for a map without weight.
    """
    values = np.linalg.svd(np.asarray(weights, np.float64), compute_uv=False)
    return np.where(values.sum(-1) > TINY, np.exp(entropy(shares(values))), 0.0)


def mean_map(weights: Maps, real: np.ndarray) -> np.ndarray:
    """The mean over the examples in which the query is a real token: (H, T, S)."""
    count = np.maximum(real.sum(0), 1)
    return np.einsum("nhts,nt->hts", weights, real.astype(np.float64)) / count[None, :, None]


def spread(weights: Maps, real: np.ndarray) -> np.ndarray:
    """Standard deviation over those examples of each entry of the map: (H, T, S). Nought: the pattern is fixed."""
    centred = (weights - mean_map(weights, real)[None]) ** 2
    return np.sqrt(mean_map(centred, real))


def stability(weights: Maps, real: np.ndarray) -> np.ndarray:
    """1 - the mean total variation between an example's rows and the mean map's: (H,).

    1: every example has the same map; 0: no two share a key. Of shares; with one example it is 1.
    """
    p = shares(weights)
    apart = 0.5 * np.abs(p - shares(mean_map(p, real)[None])).sum(-1)
    return 1.0 - mean_over_rows(apart, p, real)


def mean_over_rows(values: np.ndarray, p: Maps, real: np.ndarray) -> np.ndarray:
    """The mean of (N, H, T) over real queries that have keys: (H,); 0 where there is none."""
    counted = (p.sum(-1) > TINY) & real[:, None]
    return (values * counted).sum((0, 2)) / np.maximum(counted.sum((0, 2)), 1)


def of_layer(weights: Maps, real: np.ndarray, allowed: np.ndarray, tops: Sequence[int] = TOP) -> dict[str, np.ndarray]:
    """The statistics of one layer, a number for each head.

    Args:
      weights: of the layer.
      real: bool (N, T), queries that are no padding.
      allowed: as in `sparsity`.
      tops: numbers of keys of which the mass is given.

    Returns:
      entropy (nats), keys (exp of each row's entropy, mean over rows: the effective number of keys), distance (tokens),
      diagonal, first (share on key 0), top_1, top_4 ..., sparsity, effective_rank, spread (mean of `spread` over
      the entries that a real query may attend to), stability.
    """
    weights = np.asarray(weights, np.float64)
    p = shares(weights)
    surprise = entropy(p)
    rows = {
        "entropy": surprise,
        "keys": np.exp(surprise),
        "distance": distance(p),
        "diagonal": on_diagonal(p),
        "first": p[..., 0],
        **{f"top_{count}": top(p, count) for count in tops},
        "sparsity": sparsity(p, allowed),
    }
    found = {name: mean_over_rows(values, p, real) for name, values in rows.items()}
    seen = np.where(real[:, None, :, None], weights, 0.0)
    met = (real[:, :, None] & allowed).any(0)
    return found | {
        "effective_rank": effective_rank(seen).mean(0),
        "spread": spread(weights, real)[:, met].mean(1),
        "stability": stability(weights, real),
    }


def by_position(weights: Maps, real: np.ndarray, allowed: np.ndarray) -> dict[str, np.ndarray]:
    """entropy and sparsity of the queries at each position, mean over examples: (H, T), NaN where none is real."""
    p = shares(weights)
    count = real.sum(0).astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.einsum("nht,nt->ht", values, real.astype(np.float64))
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    return {"entropy": mean(entropy(p)), "sparsity": mean(sparsity(p, allowed))}
