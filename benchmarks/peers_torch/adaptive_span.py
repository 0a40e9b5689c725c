"""Adaptive span with a triangle wave (Lookatator/Adaptive-nanoGPT): both masks over the (T, S) matrix."""

import math

import torch
from torch import Tensor, nn

from benchmarks.peers_torch.heads import merge, split

SMALLEST = 1e-6


class TriangleWave(nn.Module):
    """Periods and ratios of the heads, and the wave's first harmonics at every lag."""

    def __init__(self, heads: int, period_min: float, period_max: float, max_harmonics: int):
        super().__init__()
        self.period_weight = nn.Parameter(torch.rand(heads).logit(1e-4))
        self.ratio_weight = nn.Parameter(torch.zeros(heads))
        self.bounds, self.harmonics = (period_min, period_max), max_harmonics

    def forward(self, lag: Tensor) -> tuple[Tensor, Tensor]:
        """The mask (H, T, T), and the regularizer's share of each head."""
        low, high = self.bounds
        period = (low + (high - low) * torch.sigmoid(self.period_weight))[:, None, None]
        ratio = (torch.sigmoid(self.ratio_weight) / 2 - 0.25)[:, None, None]
        amplitude, offset = period / 4, period * ratio
        angle = torch.fmod(2 * math.pi * lag / period, 2 * math.pi)
        wave = torch.zeros_like(angle)
        for k in range(1, self.harmonics + 1):
            wave = wave + 8 * (1 - (-1) ** k) / (math.pi**2 * k**2) * torch.cos(k * angle)
        mask = (amplitude / 2 * wave + 0.5 + offset).clamp(0, 1)
        share = 1 / period + 2 * ratio + 0.5
        share = torch.where(share < 1, share, 1.5 + offset - amplitude)
        return mask, share[:, 0, 0]


class AdaptiveCausalAttention(nn.Module):
    """Causal attention whose heads learn spans; `regularizer` is that of the last call."""

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size_max_span: int,
        softness_R: float = 32,
        span_reg: float = 4e-6,
        bias: bool = False,
        use_triangle_wave_masking: bool = False,
        period_min: float = 2.0,
        period_max: float = 8.0,
        max_harmonics: int = 5,
    ):
        super().__init__()
        self.num_heads, self.max_span, self.softness, self.span_reg = n_head, block_size_max_span, softness_R, span_reg
        self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd, bias=bias), nn.Linear(n_embd, n_embd, bias=bias)
        self.span_params = nn.Parameter(torch.zeros(n_head))
        self.triangle_wave = (
            TriangleWave(n_head, period_min, period_max, max_harmonics) if use_triangle_wave_masking else None
        )
        self.regularizer: Tensor | None = None

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v."""
        return tuple(split(part, self.num_heads) for part in self.c_attn(x).chunk(3, -1))

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(D) + log span mask [+ log wave mask]) v."""
        token = torch.arange(q.shape[2], device=q.device)
        lag = (token[:, None] - token[None]).to(q.dtype)
        span = self.max_span * torch.sigmoid(self.span_params)
        mask = ((self.softness - lag + span[:, None, None]) / self.softness).clamp(0, 1)
        mask = torch.where(lag >= 0, mask, 0.0)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + mask.clamp_min(SMALLEST).log()
        hidden = mask <= SMALLEST
        self.regularizer = self.span_reg * span.mean()
        if self.triangle_wave is not None:
            wave, share = self.triangle_wave(lag)
            scores = scores + wave.clamp_min(SMALLEST).log()
            hidden = hidden | (wave <= SMALLEST)
            self.regularizer = self.span_reg * ((span + self.softness) * share).mean()
        return torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ v

    def forward(self, x: Tensor) -> Tensor:
        """Attention of x to itself."""
        return self.c_proj(merge(self.kernel(*self.heads(x))))
