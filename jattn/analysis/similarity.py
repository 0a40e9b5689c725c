"""How alike heads and layers attend: linear CKA of their weights (Kornblith et al. 2019, arXiv:1905.00414).

Debiased as by Nguyen et al. 2021 (arXiv:2010.15327): centred kernel alignment is 1 for any two sets of many features of
few rows, and attention has a feature a key. Matrices of inner products are centred without their diagonal (Székely and
Rizzo 2014), which makes their product an unbiased estimate of the Hilbert-Schmidt independence criterion.
"""

from collections.abc import Sequence

import numpy as np

ROWS = 512
"""Queries that are compared; of more, as many are drawn, always the same."""

SAME = 1e-6
"""Rows that differ by this part of their length, by the rounding of float32, are constant."""

FEWEST = 4
"""Rows without which there is no unbiased estimate."""


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Of two sets of features of the same n rows, (n, p) and (n, q).

    1: one is the other turned and scaled; about 0, of either sign: they have nothing to do with each other; 0 where one
    of them is constant, NaN of fewer than 4 rows.
    """
    return float(_alignments([x, y])[0, 1])


def between_heads(weights: Sequence[np.ndarray], real: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """CKA of every pair of heads, layer by layer in one row: the rows are queries, the features their weights.

    Args:
      weights: of each layer, (N, H, T, S).
      real: bool (N, T), queries that are no padding.
      rows: at most so many queries.
    """
    chosen = _drawn(real, rows)
    return _alignments([layer[:, head][chosen] for layer in weights for head in range(layer.shape[1])])


def between_layers(weights: Sequence[np.ndarray], real: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """CKA of every pair of layers: the features are the weights of all heads side by side."""
    chosen = _drawn(real, rows)
    return _alignments([np.concatenate([layer[:, h][chosen] for h in range(layer.shape[1])], -1) for layer in weights])


def _drawn(real: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    example, query = np.nonzero(real)
    if len(example) > rows:
        kept = np.sort(np.random.default_rng(0).choice(len(example), rows, replace=False))
        example, query = example[kept], query[kept]
    return example, query


def _alignments(features: Sequence[np.ndarray]) -> np.ndarray:
    if len(features[0]) < FEWEST:
        return np.full((len(features), len(features)), np.nan)
    products = np.stack([_centred(x).ravel() for x in features])
    found = products @ products.T
    size = np.sqrt(found.diagonal())
    return np.divide(found, np.outer(size, size), out=np.zeros_like(found), where=np.outer(size, size) > 0)


def _centred(x: np.ndarray) -> np.ndarray:
    """The rows' inner products, centred with a diagonal of 0; nought where the features are constant."""
    x = np.asarray(x, np.float64)
    n, length = len(x), np.linalg.norm(x)
    x = x - x.mean(0)
    if np.linalg.norm(x) <= SAME * length:
        return np.zeros((n, n))
    products = x @ x.T
    np.fill_diagonal(products, 0.0)
    rows = products.sum(0) / (n - 2)
    products += rows.sum() / (n - 1) - rows[:, None] - rows[None, :]
    np.fill_diagonal(products, 0.0)
    return products
