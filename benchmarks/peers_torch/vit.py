"""The ConvNN repository's Vision Transformer with each of its layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.peers_torch.convnn import (
    MultiHeadBranchingAttention,
    MultiHeadBranchingConv,
    MultiHeadConv1dAttention,
    MultiHeadConvNNAttention,
)
from benchmarks.peers_torch.kvt import MultiHeadKvtAttention
from benchmarks.peers_torch.local import MultiHeadLocalAttention
from benchmarks.peers_torch.neighborhood import NeighborhoodAttention1D
from benchmarks.peers_torch.softmax import MultiHeadAttention
from benchmarks.peers_torch.sparse import MultiHeadSparseAttention

CONVNN = ("K", "sampling_type", "num_samples", "sample_padding", "magnitude_type", "coordinate_encoding")
CONVNN += ("convolution_type", "softmax_topk_val", "attention_dropout")


def _of_convnn(options: dict) -> dict:
    return {name: options[name] for name in CONVNN if name in options}


LAYERS: dict[str, Callable[[int, int, dict], nn.Module]] = {
    "Attention": lambda d, h, o: MultiHeadAttention(d, h, o.get("attention_dropout", 0.0)),
    "ConvNNAttention": lambda d, h, o: MultiHeadConvNNAttention(d, h, **_of_convnn(o)),
    "BranchConv": lambda d, h, o: MultiHeadBranchingConv(d, h, o["branch_ratio"], o["kernel_size"], **_of_convnn(o)),
    "BranchAttention": lambda d, h, o: MultiHeadBranchingAttention(d, h, o["branch_ratio"], **_of_convnn(o)),
    "Conv1dAttention": lambda d, h, o: MultiHeadConv1dAttention(d, h, o["kernel_size"]),
    "KvtAttention": lambda d, h, o: MultiHeadKvtAttention(d, h, topk=o["K"]),
    "LocalAttention": lambda d, h, o: MultiHeadLocalAttention(d, 128, 64, h),
    "NeighborhoodAttention": lambda d, h, o: NeighborhoodAttention1D(
        d, h, o["K"], qkv_bias=False, proj_drop=o.get("attention_dropout", 0.0)
    ),
    "SparseAttention": lambda d, h, o: MultiHeadSparseAttention(
        d, h, o.get("attention_dropout", 0.0), o["sparse_mode"], o["sparse_context_window"]
    ),
}
"""Name of the layer -> the module of so many features and heads, and of the ViT's options."""


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
    """Logits of token 0, the class token, without a last norm. `options` are the layers' (see `LAYERS`)."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        d_hidden: int,
        d_mlp: int,
        num_heads: int,
        num_layers: int,
        num_classes: int,
        layer: str,
        dropout: float = 0.0,
        **options: object,
    ):
        super().__init__()
        self.patch_embedding = _PatchEmbedding(patch_size, d_hidden)
        self.positional_encoding = _PositionalEncoding(d_hidden, (image_size // patch_size) ** 2 + 1)
        self.transformer_encoder = nn.ModuleList(
            _Encoder(d_hidden, d_mlp, LAYERS[layer](d_hidden, num_heads, options), dropout) for _ in range(num_layers)
        )
        self.classifier = nn.Linear(d_hidden, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of pictures (B, 3, size, size)."""
        x = self.positional_encoding(self.patch_embedding(pictures))
        for encoder in self.transformer_encoder:
            x = encoder(x)
        return self.classifier(x[:, 0])
