"""Neighbourhood attention in one dimension, as a mask over the (T, S) matrix."""

import torch
from torch import Tensor, nn

from benchmarks.peers_torch.heads import merge


def window_mask(length: int, kernel_size: int, dilation: int, causal: bool, device: torch.device) -> Tensor:
    """(T, T), True where key j is one of query i's neighbours.

    Tokens of one residue by the dilation form a sequence, in which each query has the `kernel_size` keys around it,
    shifted inwards at the borders; causal ones have those up to their own, fewer at the start.
    """
    token = torch.arange(length, device=device)
    group, place = token % dilation, token // dilation
    if causal:
        start = place - (kernel_size - 1)
    else:
        count = -((group - length) // dilation)
        start = torch.minimum((place - kernel_size // 2).clamp_min(0), count - kernel_size)
    inside = (place[None] >= start[:, None]) & (place[None] < start[:, None] + kernel_size)
    return inside & (group[None] == group[:, None])


class NeighborhoodAttention1D(nn.Module):
    """As the class of NATTEN that the ConvNN repository imports."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        dilation: int = 1,
        is_causal: bool = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        self.num_heads, self.kernel_size, self.dilation, self.is_causal = num_heads, kernel_size, dilation, is_causal
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T scale, outside of the window hidden) v."""
        mask = window_mask(q.shape[2], self.kernel_size, self.dilation, self.is_causal, q.device)
        scores = ((q * self.scale) @ k.transpose(-2, -1)).masked_fill(~mask, -torch.inf)
        return torch.softmax(scores, -1) @ v

    def forward(self, x: Tensor) -> Tensor:
        """Attention of x to itself."""
        return self.proj_drop(self.proj(merge(self.kernel(*self.heads(x)))))
