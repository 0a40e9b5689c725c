"""k-NN attention as in the ConvNN repository: softmax over the k largest scores of a row."""

import torch
from torch import Tensor, nn

from benchmarks.peers_torch.heads import merge


class MultiHeadKvtAttention(nn.Module):
    """Builds the (T, S) matrix, marks the top k of each row in a second one, and hides the rest."""

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = False, qk_scale: float | None = None, topk: int = 100
    ):
        super().__init__()
        self.num_heads, self.topk = num_heads, topk
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=False)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(the k largest of q k^T scale) v."""
        scores = (q @ k.transpose(-2, -1)) * self.scale
        chosen = torch.topk(scores, self.topk, dim=-1).indices
        mask = torch.zeros_like(scores).scatter_(-1, chosen, 1.0)
        scores = torch.where(mask > 0, scores, torch.full_like(scores, -torch.inf))
        return torch.softmax(scores, -1) @ v

    def forward(self, x: Tensor) -> Tensor:
        """Attention of x to itself."""
        return self.proj(merge(self.kernel(*self.heads(x))))
