"""Super attention: paper, equation and letters in `jattn.attention.reduced`, the mixing in `token_mixing`."""

from collections.abc import Mapping
from typing import ClassVar

from jattn.attention import cache, cost
from jattn.attention.base import Inputs
from jattn.attention.reduced import ReducedAttention
from jattn.attention.token_mixing import TokenMixing
from jattn.errors import UserError
from jattn.types import Array, Float


class SuperAttention(ReducedAttention):
    """Efficient attention whose values are first mixed over the tokens by a learned matrix A.

    `weights` are those of the mixed values.

    max_length: L, the longest sequence (of keys); None = that of `init`. A model hands over its own.
    shared: one A for all heads; otherwise each has its own.
    token_bias: A has a bias b, a number for each token; None = as `use_bias`.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "pairs": "A mixes the values before they are read, so a token hidden from a query would reach it by another's"
    }

    max_length: int | None = None
    shared: bool = True
    token_bias: bool | None = None

    def __post_init__(self):
        if self.max_length is not None and self.max_length < 1:
            raise UserError(f"max_length is {self.max_length}: it must be at least 1")
        super().__post_init__()

    def read(self, inputs: Inputs, values: Float[Array, "B S X"], deterministic: bool) -> Float[Array, "*B T C"]:
        """Projected queries, keys as they are, mixed values."""
        head_dim = self.slice_size(inputs.context.shape[-1], self.head_dim)
        (q,) = self.turned(inputs, self.project("query", inputs.x, self.num_heads, head_dim))
        k, v = (self.slices(tokens, head_dim).astype(q.dtype) for tokens in (inputs.context, values))
        count = v.shape[2]
        if self.as_published and self.max_length not in (None, count):
            raise UserError(
                f"as published, super attention mixes exactly max_length {self.max_length} tokens, not {count}: "
                "pad the sequence, or use as_published=False"
            )
        mixing = TokenMixing(
            1 if self.shared else self.num_heads,
            self.max_length,
            self.causal,
            self.use_bias if self.token_bias is None else self.token_bias,
            self.dtype,
            name="mixing",
        )
        if self.decode:
            inputs, (k,) = self.remember(inputs, token=k)
            v = k
        v = mixing(v, inputs.key_mask, inputs.offset, count)
        if self.decode:
            v = cache.remember_derived(self, "mixed", v, inputs.offset)
        (k,) = self.turned(inputs._replace(offset=0), k)  # all of the cache's, not only this call's
        return self.answer(inputs, q, k, v, deterministic=deterministic)

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens attending to S (None = T, to themselves)."""
        S = T if S is None else S
        H, D, length = self.num_heads, self.slice_size(width, self.head_dim), self.max_length or S
        matrices, has_bias = 1 if self.shared else H, self.use_bias if self.token_bias is None else self.token_bias
        params = matrices * length * (length + has_bias)
        flops = batch * H * S * D * (2 * S + has_bias)
        mixing = cost.Cost(params, flops, dtype_bytes * (params + 2 * batch * H * S * D))
        sizes = {"width": width, "batch": batch, "dtype_bytes": dtype_bytes}
        return mixing + self.attention_cost(T, S, **sizes, sizes=(D, D), key_features=D)
