"""Attention mechanisms: one file each, one interface, `y = module(x, mask, context=..., deterministic=...)`."""

from jattn.attention.base import FEATURES, Attention
from jattn.attention.conv1d import Conv1dAttention
from jattn.attention.cost import Cost
from jattn.attention.softmax import SoftmaxAttention

__all__ = ["FEATURES", "MECHANISMS", "Attention", "Conv1dAttention", "Cost", "SoftmaxAttention"]

MECHANISMS: dict[str, type[Attention]] = {
    "conv1d": Conv1dAttention,
    "softmax": SoftmaxAttention,
}
