"""k-NN attention.

Wang et al. 2022, "KVT: k-NN Attention for Boosting Vision Transformers", arXiv:2106.00515, equation 3, as released
with ConvNN (https://github.com/mingikang31/Convolutional-Nearest-Neighbor-Attention, `layers.py`).

    A = softmax(T_k(scale Q K^T)) V      [T_k(A)]_ts = A_ts if it is among the k largest of row t, -inf otherwise

The paper's n, d and k are our T, D and `topk`. Padding, causality and other masks decide first: the k are the largest
of the keys that a query may attend to, and all of them where they are no more than k. Keys that tie with the k-th are
all used. Which keys are used has no gradient.

`as_published`: more than all keys, `topk` > S, is an error. Among ties the released code uses exactly k.
"""

import flax.linen as nn

from jattn import core
from jattn.attention import cost
from jattn.attention.base import Attention
from jattn.attention.projections import ToHeads
from jattn.core.threshold import HALVINGS
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Float


class KvtAttention(Attention):
    """Multi-head attention to the `topk` keys of largest score.

    topk: k, keys that a query uses.
    qkv_bias: queries, keys and values have biases; None = as `use_bias`.
    qk_scale: of the scores; None = D ** -0.5.
    """

    topk: int = 100
    qkv_bias: bool | None = None
    qk_scale: float | int | None = None

    def __post_init__(self):
        if self.topk < 1:
            raise UserError(f"topk is {self.topk}: a query uses at least 1 key")
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
        """Each token of x attends to its best keys of the context, or of x; see `jattn.attention.base` for the mask."""
        inputs = self.begin(x, mask, context)
        head_dim = self.head_size(x.shape[-1])
        q, k, v = (
            ToHeads(self.num_heads, head_dim, self._qkv_bias, self.dtype, name=name)(tokens)
            for name, tokens in (("query", inputs.x), ("key", inputs.context), ("value", inputs.context))
        )
        q, k = self.turned(inputs, q, k)
        inputs, (k, v) = self.remember(inputs, key=k, value=v)
        if self.as_published and self.topk > k.shape[2]:
            raise UserError(
                f"topk {self.topk} of {k.shape[2]} keys: the released code fails there; lower topk to at most "
                f"{k.shape[2]}, or use as_published=False, which uses all keys"
            )
        score = core.Dot(head_dim**-0.5 if self.qk_scale is None else float(self.qk_scale))
        scored, keys, terms = self.pairs(inputs, q, k, score=score)
        q = {"features": q, "threshold": core.thresholds(scored, keys, self.topk, **terms)}
        out = self.attend(inputs, q, k, v, score=core.AtLeast(score), deterministic=deterministic)
        return self.finish(inputs, out)

    @property
    def _qkv_bias(self) -> bool:
        return self.use_bias if self.qkv_bias is None else self.qkv_bias

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens attending to S (None = T, to themselves)."""
        S = T if S is None else S
        H, D = self.num_heads, self.head_size(width)
        total = cost.attention(
            T,
            S,
            batch=batch,
            heads=H,
            key_heads=H,
            score=2 * D + 4,  # the comparison with the threshold, the choice, and the sum with it
            features=(D, D),
            values=D,
            causal=self.causal,
            dtype_bytes=dtype_bytes,
        )
        if self.topk < S:
            # Scores once more; their ends; for each of the most halvings a comparison as a number, times one, summed;
            # both sides of the interval.
            pairs = batch * H * T * S
            of_pair = 2 * D + 1 + 3 * self.causal + 5 + 4 * HALVINGS + 6
            total += cost.Cost(0, pairs * of_pair, dtype_bytes * batch * H * (T + S) * D)
        for tokens, inputs, outputs, use_bias in (
            (T, width, H * D, self._qkv_bias),
            (S, width, H * D, self._qkv_bias),
            (S, width, H * D, self._qkv_bias),
            (T, H * D, width, self.use_bias),
        ):
            total += cost.projection(batch * tokens, inputs, outputs, use_bias=use_bias, dtype_bytes=dtype_bytes)
        return total + cost.Cost(0, batch * H * (T + S) * D * cost.ROTARY * self.rotary, 0)
