"""PyTorch's FlexAttention in the place of a peer's kernel, where that is dot products under a mask of pairs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.peers_torch.neighborhood import NeighborhoodAttention1D
from benchmarks.peers_torch.neural import MHSelfAttention
from benchmarks.peers_torch.sparse import MultiHeadSparseAttention

Allowed = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query, key) -> whether the pair counts."""


def _softmax(peer: MHSelfAttention, length: int) -> Allowed | None:
    return (lambda b, h, q, k: q >= k) if peer.causal else None


def _neighborhood(peer: NeighborhoodAttention1D, length: int) -> Allowed:
    K, d = peer.kernel_size, peer.dilation

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        place, last = q // d, (length - q % d + d - 1) // d - K
        start = place - (K - 1) if peer.is_causal else torch.minimum((place - K // 2).clamp_min(0), last)
        return (q % d == k % d) & (k // d >= start) & (k // d < start + K)

    return allowed


def _sparse(peer: MultiHeadSparseAttention, length: int) -> Allowed | None:
    context = peer.context
    if peer.mode == "local":
        return lambda b, h, q, k: (q - k).abs() <= context // 2
    return (lambda b, h, q, k: (q - k).abs() % context == 0) if peer.mode == "strided" else None


MASKS = {MHSelfAttention: _softmax, NeighborhoodAttention1D: _neighborhood, MultiHeadSparseAttention: _sparse}


class FlexKernel(nn.Module):
    """A peer whose kernel is FlexAttention's; the block mask of a length is made once, as its manual advises."""

    def __init__(self, peer: nn.Module, compiled: bool = True):
        super().__init__()
        self.peer = peer
        self._attend = torch.compile(flex_attention) if compiled else flex_attention
        self._masks: dict = {}

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """The peer's."""
        return self.peer.heads(x)

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention to the pairs that the peer's mask allows."""
        T = q.shape[2]
        if T not in self._masks:
            allowed = MASKS[type(self.peer)](self.peer, T)
            self._masks[T] = None if allowed is None else create_block_mask(allowed, None, None, T, T, q.device)
        return self._attend(q, k, v, block_mask=self._masks[T], scale=getattr(self.peer, "scale", None))

    def forward(self, x: Tensor) -> Tensor:
        """The peer's module with this kernel."""
        original, self.peer.kernel = self.peer.kernel, self.kernel
        try:
            return self.peer(x)
        finally:
            self.peer.kernel = original


def flex_attention_of(peer: nn.Module, compiled: bool = True) -> FlexKernel | None:
    """The peer with FlexAttention as its kernel; None where that cannot express it."""
    return FlexKernel(peer, compiled) if type(peer) in MASKS else None
