"""Softmax attention.

Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2; with fewer key heads than query
heads, Ainslie et al. 2023, "GQA", arXiv:2305.13245 (one key head: Shazeer 2019, arXiv:1911.02150).

    head_h = softmax(Q_h K_g^T / sqrt(D)) V_g        Q_h = X W^Q_h,  K_g = Z W^K_g,  V_g = Z W^V_g
    Y = [head_1 ... head_H] W^O                      g = floor(h K / H)

The paper's h, d_model, d_k = d_v are our H, C, D; GQA's G groups are our K key heads. Z is X, or the context of
cross-attention. `as_published` is the baseline of the ConvNN repository (arXiv:2511.14137), where a mask replaces
scores by -1e9: a query that may attend to nothing attends evenly, in place of giving zeros.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers

from jattn import core
from jattn.attention import cost
from jattn.attention.base import Attention, Inputs, divisors
from jattn.attention.softmax_axis import SoftmaxAxis, check_softmax_axis
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Float


class SoftmaxAttention(Attention):
    """Multi-head dot-product attention.

    num_key_heads: K, heads of keys and values, each shared by H / K query heads; None = H.
    scale: of the scores; None = D ** -0.5.
    qk_norm: RMS norm (arXiv:1910.07467) of each query and key over its D features, with learned scales shared by the
      heads, so that scores stay bounded (Henry et al. 2020, arXiv:2010.04245; Dehghani et al. 2023,
      arXiv:2302.05442, section 2, with layer norm in place of RMS norm).
    value_dim: E, features of a value head; None = D.
    softmax_axis: what the weights sum to 1 over: "keys", or "queries" as released with arXiv:2403.01643 (see
      `jattn.attention.reduced`).
    """

    num_key_heads: int | None = None
    scale: float | int | None = None
    qk_norm: bool = False
    value_dim: int | None = None
    softmax_axis: SoftmaxAxis = "keys"

    def __post_init__(self):
        check_softmax_axis(self.softmax_axis, causal=self.causal)
        if self.value_dim is not None and self.value_dim < 1:
            raise UserError(f"value_dim is {self.value_dim}: it must be at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*B T C"],
        mask: AttentionMask | None = None,
        *,
        context: Float[Array, "*B S X"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*B T C"]:
        """Each token of x attends to the tokens of the context, or of x; see `jattn.attention.base` for the mask."""
        inputs = self.begin(x, mask, context)
        return self.read(inputs, inputs.context, deterministic)

    def read(self, inputs: Inputs, values: Float[Array, "B S X"], deterministic: bool) -> Float[Array, "*B T C"]:
        """What the queries read: keys are made of `inputs.context`, values of `values`."""
        head_dim = self.head_size(inputs.x.shape[-1])
        q = self.project("query", inputs.x, self.num_heads, head_dim)
        k = self.project("key", inputs.context, self.key_heads, head_dim)
        v = self.project("value", values, self.key_heads, self.value_dim or head_dim)
        if self.qk_norm:
            q, k = self._norm("query_norm")(q), self._norm("key_norm")(k)
        q, k = self.turned(inputs, q, k)
        inputs, (k, v) = self.remember(inputs, key=k, value=v)
        scale = head_dim**-0.5 if self.scale is None else float(self.scale)
        hidden = -1e3 if self.as_published else None  # see core.Filled
        options = {"deterministic": deterministic, "hidden_score": hidden}
        if self.softmax_axis == "queries":
            k, v = (jnp.repeat(heads, self.num_heads // self.key_heads, axis=1) for heads in (k, v))
            options["over_queries"] = True
        return self.finish(inputs, self.attend(inputs, q, k, v, score=core.Dot(scale), **options))

    @property
    def key_heads(self) -> int:
        """K; raises a UserError where it does not divide H."""
        if self.num_key_heads is None:
            return self.num_heads
        if self.num_key_heads < 1 or self.num_heads % self.num_key_heads:
            allowed = ", ".join(map(str, divisors(self.num_heads)))
            raise UserError(
                f"num_key_heads {self.num_key_heads} does not divide num_heads {self.num_heads}: choose from {allowed}"
            )
        return self.num_key_heads

    def _norm(self, name: str) -> nn.RMSNorm:
        scale_init = nn.with_logical_partitioning(initializers.ones, ("head_dim",))
        return nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, scale_init=scale_init, name=name)

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens attending to S (None = T, to themselves)."""
        S = T if S is None else S
        H, K, D = self.num_heads, self.key_heads, self.head_size(width)
        E = self.value_dim or D
        projections = ((T, width, H * D), (S, width, K * D), (S, width, K * E), (T, H * E, width))
        total = cost.attention(
            T,
            S,
            batch=batch,
            heads=H,
            key_heads=K,
            score=2 * D + 1,
            features=(D, D),
            values=E,
            causal=self.causal,
            over_queries=self.softmax_axis == "queries",
            dtype_bytes=dtype_bytes,
        )
        for tokens, inputs, outputs in projections:
            total += cost.projection(batch * tokens, inputs, outputs, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        per_feature = cost.RMS_NORM * self.qk_norm + cost.ROTARY * self.rotary
        return total + cost.Cost(2 * D * self.qk_norm, batch * (H * T + K * S) * D * per_feature, 0)
