"""Natural attention: dot products whose scores are kept for the optimizer."""

import torch
from torch import Tensor, nn

from benchmarks.peers_torch.heads import merge, split


class NaturalAttention(nn.Module):
    """Dot-product attention with biases; keeps the scores of the last call, the additive mask included."""

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.num_heads = n_head
        self.last_attention_energies: Tensor | None = None
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(n_embd, n_embd))

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v."""
        return tuple(split(project(x), self.num_heads) for project in (self.q_proj, self.k_proj, self.v_proj))

    def kernel(
        self, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None = None, head_mask: Tensor | None = None
    ) -> Tensor:
        """softmax(q k^T / sqrt(D) + attention_mask) head_mask v."""
        energies = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if attention_mask is not None:
            energies = energies + attention_mask
        self.last_attention_energies = energies.detach()
        weights = torch.softmax(energies, -1)
        return (weights if head_mask is None else weights * head_mask) @ v

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, head_mask: Tensor | None = None) -> Tensor:
        """Attention of x to itself."""
        return self.out_proj(merge(self.kernel(*self.heads(x), attention_mask, head_mask)))
