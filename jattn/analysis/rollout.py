"""Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928): how much of each input token reaches each output."""

from collections.abc import Sequence

import numpy as np

from jattn.analysis.patterns import shares

RESIDUAL = 0.5
"""The part that the residual connection carries past attention, as in the paper."""


def rollout(weights: Sequence[np.ndarray]) -> np.ndarray:
    """The product over the layers of (mean over heads of the shares + the identity) / 2: (N, T, T).

    Rows sum to 1. It takes what attention mixes for what a token says: values, mlps and norms are left out.

    Args:
      weights: of each layer in order, (N, H, T, T).
    """
    found = None
    for layer in weights:
        mixed = shares(layer).mean(1)
        # A token without keys keeps only what the residual carries.
        mixed = RESIDUAL * np.eye(layer.shape[-1]) + (1 - RESIDUAL) * mixed
        mixed = mixed / mixed.sum(-1, keepdims=True)
        found = mixed if found is None else mixed @ found
    return found


def over_picture(rolled: np.ndarray, grid: tuple[int, int], class_token: bool) -> np.ndarray:
    """How much each patch matters to what the classifier reads: (N, rows, columns), each picture's sum 1.

    Args:
      rolled: of `rollout`, (N, T, T).
      grid: rows and columns of patches.
      class_token: whether the classifier reads token 0, which is no patch, or the mean of all.
    """
    read = rolled[:, 0, 1:] if class_token else rolled.mean(1)
    read = read / np.maximum(read.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
    return read.reshape(len(read), *grid)
