"""Heads apart and together again."""

from torch import Tensor


def split(x: Tensor, heads: int) -> Tensor:
    """(B, T, H D) -> (B, H, T, D), features ordered (head, feature)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H D)."""
    return x.transpose(1, 2).flatten(2)
