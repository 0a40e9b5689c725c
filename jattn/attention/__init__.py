"""Attention mechanisms: one file each, one interface, `y = module(x, mask, context=..., deterministic=...)`."""

from jattn.attention.adaptive_span import AdaptiveSpanAttention
from jattn.attention.base import FEATURES, Attention
from jattn.attention.branching import BranchingAttention, BranchingConvAttention
from jattn.attention.conv1d import Conv1dAttention
from jattn.attention.convnn import ConvNNAttention
from jattn.attention.cost import Cost
from jattn.attention.kvt import KvtAttention
from jattn.attention.local import LocalAttention
from jattn.attention.natural import NaturalAttention
from jattn.attention.neighborhood import NeighborhoodAttention
from jattn.attention.neural import NeuralAttention
from jattn.attention.reduced import EfficientAttention, OptimisedAttention
from jattn.attention.softmax import SoftmaxAttention
from jattn.attention.sparse import SparseAttention
from jattn.attention.super import SuperAttention

__all__ = [
    "FEATURES",
    "MECHANISMS",
    "AdaptiveSpanAttention",
    "Attention",
    "BranchingAttention",
    "BranchingConvAttention",
    "Conv1dAttention",
    "ConvNNAttention",
    "Cost",
    "EfficientAttention",
    "KvtAttention",
    "LocalAttention",
    "NaturalAttention",
    "NeighborhoodAttention",
    "NeuralAttention",
    "OptimisedAttention",
    "SoftmaxAttention",
    "SparseAttention",
    "SuperAttention",
]

MECHANISMS: dict[str, type[Attention]] = {
    "softmax": SoftmaxAttention,
    "neural": NeuralAttention,
    "natural": NaturalAttention,
    "optimised": OptimisedAttention,
    "efficient": EfficientAttention,
    "super": SuperAttention,
    "adaptive_span": AdaptiveSpanAttention,
    "convnn": ConvNNAttention,
    "kvt": KvtAttention,
    "local": LocalAttention,
    "neighborhood": NeighborhoodAttention,
    "sparse": SparseAttention,
    "conv1d": Conv1dAttention,
    "branching_conv": BranchingConvAttention,
    "branching_attention": BranchingAttention,
}
