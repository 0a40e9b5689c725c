"""Pay better attention (github.com/NMesaC, commit bf1c585e): optimised, efficient and super attention, head by head."""

import torch
from torch import Tensor, nn


class AttentionLayer(nn.Module):
    """One head; which projections it has depends on `layer_type`."""

    def __init__(self, d_model: int, d_k: int, layer_type: str, mixing: nn.Linear | None):
        super().__init__()
        self.W_q = nn.Linear(d_model, d_k)
        if layer_type in ("SDPA", "Optimised"):
            self.W_k = nn.Linear(d_model, d_k)
        if layer_type == "SDPA":
            self.W_v = nn.Linear(d_model, d_k)
        if mixing is not None:
            self.W_a = mixing


class ReducedAttention(nn.Module):
    """`MultiHeadAttention` of that repository.

    layer_type: SDPA, Optimised (values are slices of the input), Efficient (keys too), or Super (slices, the values
      mixed over the tokens by W_a).
    variant: "indiv", one W_a a head, or "shared".
    softmax_dim: 1 = over the queries, as released; 2 = over the keys.
    """

    def __init__(
        self,
        n_heads: int,
        d_model: int,
        max_len: int,
        layer_type: str,
        variant: str = "shared",
        softmax_dim: int = 1,
    ):
        super().__init__()
        self.d_k, self.softmax_dim = d_model // n_heads, softmax_dim
        mixing = [None] * n_heads
        if layer_type == "Super":
            own = [nn.Linear(max_len, max_len) for _ in range(n_heads if variant == "indiv" else 1)]
            mixing = own if variant == "indiv" else own * n_heads
        self.layers = nn.ModuleDict(
            {f"Attention_Layer {h}": AttentionLayer(d_model, self.d_k, layer_type, mixing[h]) for h in range(n_heads)}
        )
        self.W_o = nn.Linear(d_model, d_model)

    def heads(self, inp_q: Tensor, inp_k: Tensor | None = None, inp_v: Tensor | None = None) -> tuple:
        """Lists of q, k and v, one of each a head, before the mixing of values."""
        inp_k, inp_v = (inp_q if given is None else given for given in (inp_k, inp_v))
        queries, keys, values = [], [], []
        for h, head in enumerate(self.layers.values()):
            own = slice(h * self.d_k, (h + 1) * self.d_k)
            queries.append(head.W_q(inp_q))
            keys.append(head.W_k(inp_k) if hasattr(head, "W_k") else inp_k[..., own])
            values.append(head.W_v(inp_v) if hasattr(head, "W_v") else inp_v[..., own])
        return queries, keys, values

    def kernel(self, queries: list[Tensor], keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        """softmax(q k^T / sqrt(D)) v of each head, (B, T, D)."""
        outs = []
        for head, q, k, v in zip(self.layers.values(), queries, keys, values, strict=True):
            if hasattr(head, "W_a"):
                v = head.W_a(v.transpose(1, 2)).transpose(1, 2)
            weights = torch.softmax(q @ k.transpose(1, 2) / self.d_k**0.5, self.softmax_dim)
            outs.append(weights @ v)
        return outs

    def forward(self, inp_q: Tensor, inp_k: Tensor | None = None, inp_v: Tensor | None = None) -> Tensor:
        """Attention of the one to the other, or of the first to itself."""
        return self.W_o(torch.cat(self.kernel(*self.heads(inp_q, inp_k, inp_v)), -1))
