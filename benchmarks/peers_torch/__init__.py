"""The mechanisms of the released codes in plain PyTorch: what `python -m jattn bench` measures jattn against.

Each is written anew from the formulas of its released code and computes in the way that code does: where it builds a
(T, S) matrix, or a tensor of a network's inputs for every pair, so does the peer. Names of parameters are those of the
released `state_dict`, so that recorded cases check them (`tests/bench/test_peers.py`).

A peer is a module with two halves, so that the kernel can be measured without the projections:

    heads = module.heads(x)             what its projections give
    module.kernel(*heads)               (B, H, T, E)
    module(x)                           both, heads merged, output projection

Needs `pip install -r requirements-bench.txt`.
"""

from benchmarks.peers_torch.adaptive_span import AdaptiveCausalAttention
from benchmarks.peers_torch.convnn import (
    MultiHeadBranchingAttention,
    MultiHeadBranchingConv,
    MultiHeadConv1dAttention,
    MultiHeadConvNNAttention,
)
from benchmarks.peers_torch.flex import flex_attention_of
from benchmarks.peers_torch.kvt import MultiHeadKvtAttention
from benchmarks.peers_torch.local import MultiHeadLocalAttention
from benchmarks.peers_torch.natural import NaturalAttention
from benchmarks.peers_torch.neighborhood import NeighborhoodAttention1D
from benchmarks.peers_torch.neural import MHSelfAttention, NeuralAttention, SimpleTransformer
from benchmarks.peers_torch.reduced import ReducedAttention
from benchmarks.peers_torch.softmax import FusedAttention, MultiHeadAttention
from benchmarks.peers_torch.sparse import MultiHeadSparseAttention
from benchmarks.peers_torch.vit import ViT

__all__ = [
    "AdaptiveCausalAttention",
    "FusedAttention",
    "MHSelfAttention",
    "MultiHeadAttention",
    "MultiHeadBranchingAttention",
    "MultiHeadBranchingConv",
    "MultiHeadConv1dAttention",
    "MultiHeadConvNNAttention",
    "MultiHeadKvtAttention",
    "MultiHeadLocalAttention",
    "MultiHeadSparseAttention",
    "NaturalAttention",
    "NeighborhoodAttention1D",
    "NeuralAttention",
    "ReducedAttention",
    "SimpleTransformer",
    "ViT",
    "flex_attention_of",
]
