"""Sparse attention as in the ConvNN repository: a mask made for every call over the (T, S) matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers_torch.heads import merge, split


class MultiHeadSparseAttention(nn.Module):
    """attn_mode: all, local (|i - j| <= context // 2) or strided (|i - j| a multiple of the context).

    Dropout is on in evaluation too, as released.
    """

    def __init__(
        self,
        d_hidden: int,
        num_heads: int,
        attention_dropout: float = 0.0,
        attn_mode: str = "all",
        local_attn_ctx: int | None = None,
    ):
        super().__init__()
        self.num_heads, self.dropout = num_heads, attention_dropout
        self.mode, self.context = attn_mode, local_attn_ctx
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(d_hidden, d_hidden, bias=False))

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v."""
        return tuple(split(project(x), self.num_heads) for project in (self.q_proj, self.k_proj, self.v_proj))

    def mask(self, length: int, like: Tensor) -> Tensor:
        """(T, T) of ones and zeros."""
        token = torch.arange(length, device=like.device)
        lag = (token[:, None] - token[None]).abs()
        if self.mode == "local":
            return (lag <= self.context // 2).to(like.dtype)
        if self.mode == "strided":
            return (lag % self.context == 0).to(like.dtype)
        return torch.ones_like(lag, dtype=like.dtype)

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(score mask - 1e9 (1 - mask)) v."""
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        mask = self.mask(q.shape[2], scores)
        weights = torch.softmax(scores * mask - 1e9 * (1 - mask), -1)
        return (F.dropout(weights, self.dropout) if self.dropout else weights) @ v

    def forward(self, x: Tensor) -> Tensor:
        """Attention of x to itself."""
        return self.out_proj(merge(self.kernel(*self.heads(x))))
