"""Neural Attention (github.com/awayfromzel, commit f6572f57): a ReLU network scores every pair.

The released code concatenates the projected query and key of every pair, (B, H, T, T, 2 p), and puts the network on
that; so does this. In its language model the first layer is neural and the others are dot-product attention.
"""

import torch
from torch import Tensor, nn

from benchmarks.peers_torch.heads import merge


def _hide_future(scores: Tensor) -> Tensor:
    T = scores.shape[-1]
    return scores.masked_fill(torch.ones(T, T, dtype=torch.bool, device=scores.device).triu(1), -torch.inf)


class MHSelfAttention(nn.Module):
    """Dot-product attention; a mask (T, T) has True for hidden pairs, and counts only where not causal."""

    def __init__(self, dim: int, heads: int = 8, dim_head: int | None = None, causal: bool = True):
        super().__init__()
        self.num_heads, self.causal = heads, causal
        self.dim_head = dim_head or dim // heads
        self.to_qkv = nn.Linear(dim, 3 * heads * self.dim_head, bias=False)
        self.W_out = nn.Linear(heads * self.dim_head, dim, bias=False)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v, of features ordered (feature, q | k | v, head)."""
        return self.to_qkv(x).unflatten(-1, (self.dim_head, 3, self.num_heads)).permute(3, 0, 4, 1, 2).unbind()

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        """q k^T / sqrt(D)."""
        return torch.einsum("bhid,bhjd->bhij", q, k) * self.dim_head**-0.5

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """softmax(score) v."""
        scores = self.score(q, k)
        if self.causal:
            scores = _hide_future(scores)
        elif mask is not None:
            scores = scores.masked_fill(mask, -torch.inf)
        return torch.einsum("bhij,bhjd->bhid", torch.softmax(scores, -1), v)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention of x to itself."""
        return self.W_out(merge(self.kernel(*self.heads(x), mask)))


class NeuralAttention(MHSelfAttention):
    """Its score is linear3 relu linear2 relu linear1 [q_proj q; k_proj k]."""

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        dim_head: int | None = None,
        causal: bool = True,
        projection_dim: int | None = None,
    ):
        super().__init__(dim, heads, dim_head, causal)
        p = self.dim_head // 32 if projection_dim is None else projection_dim
        self.q_proj, self.k_proj = nn.Linear(self.dim_head, p), nn.Linear(self.dim_head, p)
        self.linear1, self.linear2, self.linear3 = nn.Linear(2 * p, p), nn.Linear(p, p // 2), nn.Linear(p // 2, 1)

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        """The network of every pair."""
        a, b = self.q_proj(q).unsqueeze(3), self.k_proj(k).unsqueeze(2)
        T = q.shape[2]
        pairs = torch.cat((a.expand(-1, -1, -1, T, -1), b.expand(-1, -1, T, -1, -1)), -1)
        hidden = torch.relu(self.linear2(torch.relu(self.linear1(pairs))))
        return self.linear3(hidden).squeeze(-1)


class TransformerBlock(nn.Module):
    """Post-norm: norm_2(f(y) + y) of y = norm_1(attention(x) + x)."""

    def __init__(self, dim: int, attention: nn.Module, dim_linear_block: int = 1024, dropout: float = 0.0):
        super().__init__()
        self.attention = attention
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        self.linear = nn.Sequential(
            nn.Linear(dim, dim_linear_block),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dim_linear_block, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y = self.norm_1(self.drop(self.attention(x)) + x)
        return self.norm_2(self.linear(y) + y)


def positions(length: int, dim: int) -> Tensor:
    """Sines at even channels i with exponent 2 i / dim, cosines at i + 1 with exponent (2 i + 1) / dim."""
    channel = torch.arange(dim)
    angle = torch.arange(length)[:, None] / 10000 ** ((2 * channel - channel % 2) / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


class SimpleTransformer(nn.Module):
    """The language model: embeddings times 2 + sqrt(dim), neural attention in layer 0, dot products in the others."""

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_unique_tokens: int,
        heads: int = 8,
        dim_head: int | None = None,
        max_seq_len: int = 1024,
        dim_linear_block: int = 1024,
        dropout: float = 0.0,
        causal: bool = True,
    ):
        super().__init__()
        self.scale = 2 + dim**0.5
        self.token_emb = nn.Embedding(num_unique_tokens, dim)
        self.register_buffer("pe", positions(max_seq_len, dim), persistent=False)
        self.drop = nn.Dropout(dropout)
        # The released blocks do not hand `causal` to dot-product attention: it always is.
        layers = [NeuralAttention(dim, heads, dim_head, causal)]
        layers += [MHSelfAttention(dim, heads, dim_head) for _ in range(num_layers - 1)]
        self.layers = nn.ModuleList(TransformerBlock(dim, layer, dim_linear_block, dropout) for layer in layers)
        self.to_logits = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_unique_tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next tokens."""
        x = self.drop(self.scale * self.token_emb(tokens) + self.pe[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x)
        return self.to_logits(x)
