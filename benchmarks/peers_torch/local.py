"""Local attention (lucidrains/local-attention, as ConvNN's repository has it): blocks of queries with their windows."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers_torch.heads import merge, split

OUTSIDE = -1
"""What stands for keys, values and positions beyond the sequence's ends."""


def look_around(x: Tensor, backward: int, forward: int, pad: float) -> Tensor:
    """(B, N, w, ...) -> (B, N, (backward + 1 + forward) w, ...): each block with those around it."""
    count = x.shape[1]
    padded = F.pad(x, (*(0,) * (2 * (x.ndim - 2)), backward, forward), value=pad)
    return torch.cat([padded[:, i : i + count] for i in range(backward + forward + 1)], 2)


def rotate_half(x: Tensor) -> Tensor:
    """[a, b] -> [-b, a] of the two halves."""
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class MultiHeadLocalAttention(nn.Module):
    """Options as released; `attn_bias` (H, w, L) and `mask` (B, T), True = a real token, are of the call."""

    def __init__(
        self,
        dim: int,
        window_size: int = 128,
        dim_head: int = 64,
        heads: int = 8,
        causal: bool = False,
        prenorm: bool = False,
        qk_rmsnorm: bool = False,
        qk_scale: float = 8,
        use_xpos: bool = False,
        xpos_scale_base: int | None = None,
        exact_windowsize: bool = True,
        gate_values_per_head: bool = False,
    ):
        super().__init__()
        self.num_heads, self.window, self.causal, self.exact = heads, window_size, causal, exact_windowsize
        self.norm = nn.LayerNorm(dim) if prenorm else nn.Identity()
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)
        self.to_v_gate = nn.Sequential(nn.Linear(dim, heads)) if gate_values_per_head else None
        self.qk_rmsnorm = qk_rmsnorm
        if qk_rmsnorm:
            self.q_scale, self.k_scale = nn.Parameter(torch.ones(dim_head)), nn.Parameter(torch.ones(dim_head))
        self.scale = qk_scale if qk_rmsnorm else dim_head**-0.5
        self.xpos_base = (xpos_scale_base or window_size // 2) if use_xpos else None
        feature = torch.arange(0, dim_head, 2)
        self.register_buffer("inv_freq", 10000.0 ** (-feature / dim_head), persistent=False)
        self.register_buffer("decay", (feature + 0.4 * dim_head) / (1.4 * dim_head), persistent=False)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v of x after its norm."""
        return tuple(split(part, self.num_heads) for part in self.to_qkv(x).chunk(3, -1))

    def kernel(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, attn_bias: Tensor | None = None
    ) -> Tensor:
        """Attention within windows."""
        if self.qk_rmsnorm:
            q, k = F.normalize(q, dim=-1) * self.q_scale, F.normalize(k, dim=-1) * self.k_scale
        B, H, T, _ = q.shape
        w, forward = self.window, 0 if self.causal else 1
        missing = -T % w
        q, k, v = (F.pad(part.flatten(0, 1), (0, 0, 0, missing)).unflatten(1, (-1, w)) for part in (q, k, v))
        k, v = (look_around(part, 1, forward, OUTSIDE) for part in (k, v))
        at = torch.arange(T + missing, device=q.device).view(1, -1, w)
        key_at = look_around(at, 1, forward, OUTSIDE)
        q, k = self._turned(q * self.scale, k)

        scores = torch.einsum("bnid,bnjd->bnij", q, k)
        if attn_bias is not None:
            scores = (scores.unflatten(0, (B, H)) + attn_bias[:, None]).flatten(0, 1)
        scores = scores.masked_fill(self._hidden(at[..., None], key_at[:, :, None]), -torch.finfo(q.dtype).max)
        if mask is not None:
            blocks = F.pad(mask, (0, missing), value=False).unflatten(1, (-1, w)).float()
            real = look_around(blocks, 1, forward, 0.0) > 0
            hidden = ~real.repeat_interleave(H, 0)[:, :, None]
            scores = scores.masked_fill(hidden, -torch.finfo(q.dtype).max)
        out = torch.einsum("bnij,bnjd->bnid", torch.softmax(scores, -1), v)
        return out.flatten(1, 2)[:, :T].unflatten(0, (B, H))

    def forward(self, x: Tensor, mask: Tensor | None = None, attn_bias: Tensor | None = None) -> Tensor:
        """Attention of x to itself."""
        x = self.norm(x)
        out = self.kernel(*self.heads(x), mask, attn_bias)
        if self.to_v_gate is not None:
            out = out * self.to_v_gate(x).transpose(1, 2).unsqueeze(-1).sigmoid()
        return self.to_out(merge(out))

    def _turned(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary angles by the slot in the window; queries have the last slots."""
        length = k.shape[2]
        slot = torch.arange(length, device=q.device)
        angle = (slot[:, None] * self.inv_freq).repeat(1, 2)
        scale = torch.ones((), device=q.device)
        if self.xpos_base is not None:
            power = (slot - length // 2)[:, None] / self.xpos_base
            scale = (self.decay**power).repeat(1, 2)
        cosine, sine, last = angle.cos(), angle.sin(), slice(length - q.shape[2], None)
        of_query = scale[last] if scale.ndim else scale
        q = (q * cosine[last] + rotate_half(q) * sine[last]) * of_query
        return q, (k * cosine + rotate_half(k) * sine) / scale

    def _hidden(self, query: Tensor, key: Tensor) -> Tensor:
        outside = key == OUTSIDE
        if self.causal:
            hidden = outside | (query < key)
            return hidden | (query > key + self.window) if self.exact else hidden
        if self.exact:
            return outside | (key - self.window > query) | (query > key + self.window)
        return outside.expand(-1, -1, query.shape[2], -1)
