"""Optimised, efficient and super attention: softmax attention with fewer projections.

Hosseini et al. 2024, "You Need to Pay Better Attention: Rethinking the Mathematics of Attention Mechanism",
arXiv:2403.01643, section 3; released code by Mesa-Cucalon, NMesaC/pay-better-attention-pytorch-keras.

    head_h = softmax(Q_h K_h^T / sqrt(D)) V_h        Q_h = X W^Q_h        Y = [head_1 ... head_H] W^O

| | K_h | V_h |
|---|---|---|
| optimised | Z W^K_h | Z_h |
| efficient | Z_h | Z_h |
| super | Z_h | A Z_h + b 1^T |

Z_h are features h E to (h + 1) E of Z, which is X or the context of cross-attention: W^V, and W^K too, are taken to be
absorbed by W^O and W^Q. The paper's d_m, d_k, d_v, l are our C, D, E, L; its W^A is A, an L x L matrix over the tokens,
whose top-left block serves shorter sequences. A is lower-triangular when causal, leaves padding out and does not mix
the sequences of a pack (see `jattn.attention.super`, `token_mixing`). It is a parameter that is as large as a matrix
of weights; the attention itself never builds one.

`as_published` is the released code: the softmax is over the queries, so that a key's weights sum to 1 and a query's do
not; A mixes exactly L tokens; and heads may be narrower than C / H, whereupon the last features are never read.
"""

import abc

import flax.linen as nn

from jattn import core
from jattn.attention import cost
from jattn.attention.base import Attention, Inputs, divisors
from jattn.attention.softmax_axis import SoftmaxAxis, check_softmax_axis
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Float


class ReducedAttention(Attention):
    """What the three share.

    softmax_axis: what the weights sum to 1 over, "keys" or "queries"; None = the keys, as published the queries. Over
      the queries, what one query reads depends on all others, and there is no causal form.
    """

    softmax_axis: SoftmaxAxis | None = None

    def __post_init__(self):
        check_softmax_axis(self.axis, causal=self.causal)
        super().__post_init__()

    @property
    def axis(self) -> SoftmaxAxis:
        """What the weights sum to 1 over."""
        return self.softmax_axis or ("queries" if self.as_published else "keys")

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

    @abc.abstractmethod
    def read(self, inputs: Inputs, values: Float[Array, "B S X"], deterministic: bool) -> Float[Array, "*B T C"]:
        """What the queries read: keys are made of `inputs.context`, values of `values`, which is the same outside of
        the released code."""

    def slice_size(self, width: int, size: int | None) -> int:
        """E, features of a slice of `width` features; `size` is what the user asks for.

        Raises:
          UserError: slices of that size do not make up the width.
        """
        if size is None and width % self.num_heads:
            raise UserError(
                f"num_heads {self.num_heads} does not divide the width {width} whose slices are the heads: "
                f"choose from {', '.join(map(str, divisors(width)))}"
            )
        size = width // self.num_heads if size is None else size
        total = size * self.num_heads
        if total > width or (total < width and not self.as_published):
            raise UserError(
                f"{self.num_heads} heads of {size} features are no slices of the width {width}: leave the size out, "
                "so that it is width / num_heads"
            )
        return size

    def slices(self, x: Float[Array, "B S X"], size: int) -> Float[Array, "B H S E"]:
        """The features of each head."""
        x = x[..., : self.num_heads * size]
        return x.reshape(*x.shape[:2], self.num_heads, size).swapaxes(1, 2)

    def answer(self, inputs: Inputs, q: Array, k: Array, v: Array, *, deterministic: bool) -> Float[Array, "*B T C"]:
        """Attention over the chosen axis, heads merged."""
        out = self.attend(
            inputs,
            q,
            k,
            v,
            score=core.Dot(q.shape[-1] ** -0.5),
            deterministic=deterministic,
            over_queries=self.axis == "queries",
        )
        return self.finish(inputs, out)

    def attention_cost(
        self, T: int, S: int, *, width: int, batch: int, dtype_bytes: int, sizes: tuple[int, int], key_features: int
    ) -> cost.Cost:
        """The cost of the query's and the output's projection and of attention with `sizes` D and E; a key has
        `key_features` besides those that it shares with its value."""
        H, (D, E) = self.num_heads, sizes
        total = cost.attention(
            T,
            S,
            batch=batch,
            heads=H,
            key_heads=H,
            score=2 * D + 1,
            features=(D, key_features),
            values=E,
            causal=self.causal,
            over_queries=self.axis == "queries",
            dtype_bytes=dtype_bytes,
        )
        for inputs, outputs in ((width, H * D), (H * E, width)):
            total += cost.projection(batch * T, inputs, outputs, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        return total + cost.Cost(0, batch * H * (T + S) * D * cost.ROTARY * self.rotary, 0)


class OptimisedAttention(ReducedAttention):
    """Without W^V: values are slices of the tokens; three quarters of the parameters.

    head_dim is D, of queries and keys.
    value_dim: E, of values; None = C / H, the only one that is not `as_published`.
    """

    value_dim: int | None = None

    def read(self, inputs: Inputs, values: Float[Array, "B S X"], deterministic: bool) -> Float[Array, "*B T C"]:
        """Projected queries and keys, values as they are."""
        head_dim = self.head_size(inputs.x.shape[-1])
        q = self.project("query", inputs.x, self.num_heads, head_dim)
        k = self.project("key", inputs.context, self.num_heads, head_dim)
        q, k = self.turned(inputs, q, k)
        v = self.slices(values, self.slice_size(values.shape[-1], self.value_dim)).astype(q.dtype)
        inputs, (k, v) = self.remember(inputs, key=k, value=v)
        return self.answer(inputs, q, k, v, deterministic=deterministic)

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens attending to S (None = T, to themselves)."""
        S = T if S is None else S
        D, E = self.head_size(width), self.slice_size(width, self.value_dim)
        options = {"use_bias": self.use_bias, "dtype_bytes": dtype_bytes}
        keys = cost.projection(batch * S, width, self.num_heads * D, **options)
        sizes = {"width": width, "batch": batch, "dtype_bytes": dtype_bytes}
        return keys + self.attention_cost(T, S, **sizes, sizes=(D, E), key_features=D)


class EfficientAttention(ReducedAttention):
    """Without W^V and W^K: keys and values are the same slices of the tokens; half of the parameters, and a decode
    cache half as large."""

    def read(self, inputs: Inputs, values: Float[Array, "B S X"], deterministic: bool) -> Float[Array, "*B T C"]:
        """Projected queries, keys and values as they are."""
        head_dim = self.slice_size(inputs.context.shape[-1], self.head_dim)
        (q,) = self.turned(inputs, self.project("query", inputs.x, self.num_heads, head_dim))
        k, v = (self.slices(tokens, head_dim).astype(q.dtype) for tokens in (inputs.context, values))
        if self.decode:
            inputs, (k,) = self.remember(inputs, token=k)
            v = k
        (k,) = self.turned(inputs._replace(offset=0), k)  # all of the cache's, not only this call's
        return self.answer(inputs, q, k, v, deterministic=deterministic)

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens attending to S (None = T, to themselves)."""
        D = self.slice_size(width, self.head_dim)
        sizes = {"width": width, "batch": batch, "dtype_bytes": dtype_bytes}
        return self.attention_cost(T, T if S is None else S, **sizes, sizes=(D, D), key_features=0)
