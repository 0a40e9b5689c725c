"""Dot-product attention: the ConvNN repository's, and PyTorch's own fused one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers_torch.heads import merge, split


class MultiHeadAttention(nn.Module):
    """The ConvNN repository's: builds the (T, S) matrix; scores that the mask hides become -1e9."""

    def __init__(self, d_hidden: int, num_heads: int, attention_dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        for name in ("W_q", "W_k", "W_v", "W_o"):
            self.add_module(name, nn.Linear(d_hidden, d_hidden, bias=False))
        self.dropout = nn.Dropout(attention_dropout)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v."""
        return tuple(split(project(x), self.num_heads) for project in (self.W_q, self.W_k, self.W_v))

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(D)) v."""
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(mask == 0, -1e9)
        return self.dropout(torch.softmax(scores, -1)) @ v

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention of x to itself."""
        return self.W_o(merge(self.kernel(*self.heads(x), mask)))


class FusedAttention(MultiHeadAttention):
    """`torch.nn.functional.scaled_dot_product_attention`, which picks its fastest kernel."""

    def __init__(self, d_hidden: int, num_heads: int, causal: bool = False):
        super().__init__(d_hidden, num_heads)
        self.causal = causal

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same without the matrix."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
