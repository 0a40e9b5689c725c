"""The ConvNN repository's Vision Transformer, around any of its layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class _PatchEmbedding(nn.Module):
    def __init__(self, patch_size: int, d_hidden: int):
        super().__init__()
        self.linear_projection = nn.Conv2d(3, d_hidden, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(d_hidden)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.norm(self.linear_projection(pictures).flatten(2).transpose(1, 2))


class _PositionalEncoding(nn.Module):
    """Sines at even channels c, cosines at c + 1, both of frequency 10000^(-c / d)."""

    def __init__(self, d_hidden: int, tokens: int):
        super().__init__()
        self.cls_tokens = nn.Parameter(torch.randn(1, 1, d_hidden))
        channel = torch.arange(d_hidden)
        angle = torch.arange(tokens)[:, None] * 10000.0 ** (-(channel - channel % 2) / d_hidden)
        self.register_buffer("pe", torch.where(channel % 2 == 0, angle.sin(), angle.cos()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.cls_tokens.expand(x.shape[0], -1, -1), x), 1) + self.pe


class _Encoder(nn.Module):
    """Pre-norm block."""

    def __init__(self, d_hidden: int, d_mlp: int, attention: nn.Module, dropout: float):
        super().__init__()
        self.attention = attention
        self.norm1, self.norm2 = nn.LayerNorm(d_hidden), nn.LayerNorm(d_hidden)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(d_hidden, d_mlp), nn.GELU(), nn.Dropout(dropout), nn.Linear(d_mlp, d_hidden))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout1(self.attention(self.norm1(x)))
        return x + self.dropout2(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """Logits of token 0, the class token, without a last norm; `attention()` makes a layer's module."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        d_hidden: int,
        d_mlp: int,
        num_layers: int,
        num_classes: int,
        attention: Callable[[], nn.Module],
        dropout: float = 0.0,
    ):
        super().__init__()
        self.patch_embedding = _PatchEmbedding(patch_size, d_hidden)
        self.positional_encoding = _PositionalEncoding(d_hidden, (image_size // patch_size) ** 2 + 1)
        self.transformer_encoder = nn.ModuleList(
            _Encoder(d_hidden, d_mlp, attention(), dropout) for _ in range(num_layers)
        )
        self.classifier = nn.Linear(d_hidden, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of pictures (B, 3, size, size)."""
        x = self.positional_encoding(self.patch_embedding(pictures))
        for encoder in self.transformer_encoder:
            x = encoder(x)
        return self.classifier(x[:, 0])
