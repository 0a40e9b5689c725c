"""Convolutional nearest neighbours (github.com/mingikang31, commit 0bb6614e), and what the repository mixes it with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers_torch.heads import merge, split
from benchmarks.peers_torch.softmax import MultiHeadAttention


def scrambled(y: Tensor) -> Tensor:
    """(B, H, T, D) read row by row as (D, T) and transposed: how the released code merges heads, mixing tokens."""
    return y.flatten(2).unflatten(2, (y.shape[3], y.shape[2])).transpose(2, 3)


class MultiHeadConvNNAttention(nn.Module):
    """A convolution over the K nearest candidates of each token. `candidates` overrules the sampling."""

    def __init__(
        self,
        d_hidden: int,
        num_heads: int,
        K: int,
        sampling_type: str = "all",
        num_samples: int = -1,
        sample_padding: int = 0,
        magnitude_type: str = "matmul",
        coordinate_encoding: bool = False,
        convolution_type: str = "standard",
        softmax_topk_val: bool = True,
        attention_dropout: float = 0.0,
        candidates: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.num_heads, self.K, self.sampling, self.num_samples = num_heads, K, sampling_type, num_samples
        self.padding, self.magnitude, self.coordinates = sample_padding, magnitude_type, coordinate_encoding
        self.softmax, self.candidates = softmax_topk_val, candidates
        for name in ("W_q", "W_k", "W_v", "W_o"):
            self.add_module(name, nn.Linear(d_hidden, d_hidden, bias=False))
        outputs = d_hidden // num_heads
        inputs = outputs + coordinate_encoding
        if convolution_type == "standard":
            self.conv = nn.Conv1d(inputs, outputs, K, stride=K, bias=False)
        elif convolution_type == "depthwise":
            self.conv = nn.Conv1d(inputs, outputs, K, stride=K, groups=inputs, bias=False)
            nn.init.ones_(self.conv.weight)
        else:
            self.conv = nn.Sequential(
                nn.Conv1d(inputs, inputs, K, stride=K, groups=inputs, bias=False),
                nn.Conv1d(inputs, outputs, 1, bias=False),
            )
        self.dropout = nn.Dropout(attention_dropout)

    def chosen(self, length: int, device: torch.device) -> Tensor | None:
        """The candidates' positions; None = all tokens."""
        if self.candidates is not None:
            return torch.tensor(self.candidates, device=device)
        if self.sampling == "random":
            return torch.randperm(length, device=device)[: self.num_samples]
        if self.sampling == "spatial":
            ends = self.padding, length - self.padding - 1
            return torch.linspace(*ends, self.num_samples, device=device).long()
        return None

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q of the candidates, k and v of all tokens, and the candidates' positions where they are sampled."""
        at = self.chosen(x.shape[1], x.device)
        q = self.W_q(x if at is None else x[:, at])
        parts = tuple(split(part, self.num_heads) for part in (q, self.W_k(x), self.W_v(x)))
        return parts if at is None else (*parts, at)

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, at: Tensor | None = None) -> Tensor:
        """The convolution, before heads are merged."""
        B, H, _, D = k.shape
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        if self.coordinates:
            q, k, v = (self._with_coordinate(part) for part in (q, k, v))
        score = self._scores(q, k, D)
        if at is None:
            values, index = torch.topk(score, self.K, -1, largest=self.magnitude != "euclidean")
        else:
            values, index = self._sampled(score, at)
        prime = self._neighbours(v.transpose(1, 2), index) * self._weights(values).unsqueeze(1)
        y = self.dropout(self.conv(prime.flatten(2)))
        return y.unflatten(0, (B, H)).transpose(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The layer; heads are merged as released."""
        y = self.kernel(*self.heads(x))
        return self.W_o(merge(scrambled(y) if self.num_heads > 1 else y))

    @staticmethod
    def _with_coordinate(x: Tensor) -> Tensor:
        place = torch.linspace(-1, 1, x.shape[1], device=x.device, dtype=x.dtype)
        return torch.cat((x, place[None, :, None].expand(x.shape[0], -1, 1)), -1)

    def _scores(self, q: Tensor, k: Tensor, D: int) -> Tensor:
        """(B H, T, candidates): rows are tokens through k, columns candidates through q."""
        if self.magnitude == "matmul":
            return k @ q.transpose(1, 2) / D**0.5
        if self.magnitude == "cosine":
            return F.normalize(k, dim=-1) @ F.normalize(q, dim=-1).transpose(1, 2)
        squared = (k**2).sum(-1)[:, :, None] + (q**2).sum(-1)[:, None] - 2 * k @ q.transpose(1, 2)
        return squared.sqrt()

    def _sampled(self, score: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """The token itself with value 1, then the nearest K - 1 candidates, whose own score is a constant."""
        nearest = self.magnitude == "euclidean"
        if nearest:
            score = score.clone()  # what sqrt gave is needed for its gradient
        score[:, at, torch.arange(len(at), device=at.device)] = 1.1 if nearest else -0.1
        values, slot = torch.topk(score, self.K - 1, -1, largest=not nearest)
        own = torch.arange(score.shape[1], device=at.device)[None, :, None].expand(score.shape[0], -1, 1)
        values = torch.cat((torch.ones_like(own, dtype=values.dtype), values), -1)
        return values, torch.cat((own, at[slot]), -1)

    def _weights(self, values: Tensor) -> Tensor:
        if self.softmax:
            return torch.softmax(-values if self.magnitude == "euclidean" else values, -1)
        return 1 / (values + 1e-8) if self.magnitude == "euclidean" else values

    @staticmethod
    def _neighbours(v: Tensor, index: Tensor) -> Tensor:
        """(B H, C, T, K) of v (B H, C, T)."""
        C, K = v.shape[1], index.shape[2]
        return v.unsqueeze(-1).expand(-1, -1, -1, K).gather(2, index.unsqueeze(1).expand(-1, C, -1, -1))


class MultiHeadConv1dAttention(nn.Module):
    """A convolution over the tokens, one for all heads."""

    def __init__(self, d_hidden: int, num_heads: int, kernel_size: int):
        super().__init__()
        self.num_heads = num_heads
        self.W_x, self.W_o = nn.Linear(d_hidden, d_hidden), nn.Linear(d_hidden, d_hidden)
        size = d_hidden // num_heads
        self.conv = nn.Conv1d(size, size, kernel_size, padding="same")

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Values."""
        return (split(self.W_x(x), self.num_heads),)

    def kernel(self, values: Tensor) -> Tensor:
        """The convolution, before heads are merged."""
        y = self.conv(values.flatten(0, 1).transpose(1, 2))
        return y.unflatten(0, values.shape[:2]).transpose(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The layer; heads are merged as released."""
        return self.W_o(merge(scrambled(self.kernel(*self.heads(x)))))


class _Branching(nn.Module):
    """The first int(ratio C) channels through ConvNN, the others through `other`, then a linear map."""

    other = ""

    def __init__(self, d_hidden: int, branch_ratio: float):
        super().__init__()
        self.split_at = int(branch_ratio * d_hidden)
        self.pointwise_linear = nn.Linear(d_hidden, d_hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Both branches; with one alone the released code leaves out the linear map."""
        parts = []
        if self.split_at > 0:
            parts.append(self.convnn(x[..., : self.split_at]))
        if self.split_at < x.shape[-1]:
            parts.append(getattr(self, self.other)(x[..., self.split_at :]))
        joined = torch.cat(parts, -1)
        return self.pointwise_linear(joined) if len(parts) == 2 else joined


class MultiHeadBranchingConv(_Branching):
    """ConvNN beside a convolution."""

    other = "conv1d"

    def __init__(self, d_hidden: int, num_heads: int, branch_ratio: float, kernel_size: int, **convnn: object):
        super().__init__(d_hidden, branch_ratio)
        if self.split_at:
            self.convnn = MultiHeadConvNNAttention(self.split_at, num_heads, **convnn)
        if self.split_at < d_hidden:
            self.conv1d = MultiHeadConv1dAttention(d_hidden - self.split_at, num_heads, kernel_size)


class MultiHeadBranchingAttention(_Branching):
    """ConvNN beside dot-product attention; the released class cannot run with one of them alone."""

    other = "attention"

    def __init__(
        self, d_hidden: int, num_heads: int, branch_ratio: float, attention_dropout: float = 0.0, **convnn: object
    ):
        super().__init__(d_hidden, branch_ratio)
        self.convnn = MultiHeadConvNNAttention(self.split_at, num_heads, attention_dropout=attention_dropout, **convnn)
        self.attention = MultiHeadAttention(d_hidden - self.split_at, num_heads, attention_dropout)
