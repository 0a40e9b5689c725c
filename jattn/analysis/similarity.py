"""How alike heads and layers attend: linear CKA of their weights (Kornblith et al. 2019, arXiv:1905.00414)."""

from collections.abc import Sequence

import numpy as np

ROWS = 2048
"""Queries that are compared; of more, as many are drawn, always the same."""


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of two sets of features of the same n rows, (n, p) and (n, q): 0 to 1.

    1: one is the other turned and scaled. With fewer rows than features it is biased upwards. 0 where one of them is
    constant.
    """
    return float(_matrix([_centred(x), _centred(y)])[0, 1])


def between_heads(weights: Sequence[np.ndarray], real: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """CKA of every pair of heads, layer by layer in one row: the rows are queries, the features their weights.

    Args:
      weights: of each layer, (N, H, T, S).
      real: bool (N, T), queries that are no padding.
      rows: at most so many queries.
    """
    chosen = _drawn(real, rows)
    return _matrix([_centred(layer[:, head][chosen]) for layer in weights for head in range(layer.shape[1])])


def between_layers(weights: Sequence[np.ndarray], real: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """CKA of every pair of layers: the features are the weights of all heads side by side."""
    chosen = _drawn(real, rows)
    return _matrix([_centred(np.concatenate(np.moveaxis(layer, 1, 0), -1)[chosen]) for layer in weights])


def _drawn(real: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    example, query = np.nonzero(real)
    if len(example) > rows:
        kept = np.sort(np.random.default_rng(0).choice(len(example), rows, replace=False))
        example, query = example[kept], query[kept]
    return example, query


def _centred(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x - x.mean(0)


def _matrix(features: Sequence[np.ndarray]) -> np.ndarray:
    own = [np.linalg.norm(x.T @ x) if x.shape[1] < x.shape[0] else np.linalg.norm(x @ x.T) for x in features]
    found = np.zeros((len(features), len(features)))
    for i, x in enumerate(features):
        for j, y in enumerate(features[: i + 1]):
            scale = own[i] * own[j]
            found[i, j] = found[j, i] = np.sum((x.T @ y) ** 2) / scale if scale > 0 else 0.0
    return found
