"""Neural attention: a small ReLU network scores every pair of query and key.

DiGiugno & Mahmood 2025, "Neural Attention: A Novel Mechanism for Enhanced Expressive Power in Transformer Models",
arXiv:2502.17206.

    a_i = W_q q_i + b_q,  b_j = W_k k_j + b_k                       D -> d' features, d' = `projection_dim`
    score_ij = w_3 . relu(W_2 relu(W_1 [a_i; b_j] + b_1) + b_2) + b_3       2 d' -> d' -> d'/2 -> 1
    head = softmax(score) V,  Y = [head_1 ... head_H] W_out

The paper's h, d, d' are our H, D and `projection_dim`. Scores are not divided by sqrt(D), and values keep their D
features. The network is shared by the heads. W_1 [a; b] = W_1q a + W_1k b is computed once per token, so that
neither the (T, S, 2 d') tensor of the paper's equation nor the (T, S) matrix is ever built (see `core.MLP`).

Initialisation. What a unit of the second layer reads is never negative, so it is dead where its weights are; with
d' = 2 it is the only one. Initialised as the released code does (uniform within 1 / sqrt(inputs)), 78 of 256 networks
gave 62 random tokens one constant score, without gradient for ever. Here kernels are normal, of variance 2 / inputs
where inputs come from a ReLU and 1 / inputs elsewhere, biases are zero, and the weights of each unit that reads other
units are turned to have a non-negative sum: 1 of 256, and scores begin at about unit size.

`as_published=True` initialises the network as the released code does, and takes d' = D // 32 whatever comes of it: 1
leaves the second layer no unit and 0 none anywhere, so that the score is b_3 for every pair and attention the mean.
Otherwise d' = max(2, D // 32), and less is refused.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn import core
from jattn.attention import cost
from jattn.attention.base import Attention
from jattn.errors import UserError
from jattn.types import Array, AttentionMask, Float, Key, Tokens


def released_init(key: Key[Array, ""], shape: tuple[int, ...], fan_in: int) -> Float[Array, "..."]:
    """PyTorch's default, uniform within 1 / sqrt(inputs), for kernels and biases alike."""
    bound = max(fan_in, 1) ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def live_init(key: Key[Array, ""], shape: tuple[int, ...], fan_in: int, after_relu: bool) -> Float[Array, "i h o"]:
    """Normal kernels that keep the variance of their inputs; each unit that reads a ReLU reads more plus than minus."""
    kernel = jax.random.normal(key, shape) * ((2 if after_relu else 1) / fan_in) ** 0.5
    return jnp.where(after_relu & (kernel.sum(0, keepdims=True) < 0), -kernel, kernel)


class ScoreNetwork(nn.Module):
    """The parameters of the score, of one network (h = 1) or of one a head (h = H), and what it does to each token.

    `query_*` and `key_*` project to `projection_dim` features; `hidden_0_query_kernel` and `hidden_0_key_kernel` are
    the two halves of the first layer; `hidden_1_*` and so on follow, and `output_*`. Kernels are (inputs, h, outputs),
    biases (h, outputs).
    """

    projection_dim: int
    hidden_dims: tuple[int, ...]
    shared: bool
    as_published: bool

    @nn.compact
    def __call__(
        self, q: Float[Array, "B H T D"], k: Float[Array, "B H S D"]
    ) -> tuple[Float[Array, "B H T F"], Float[Array, "B H S F"], core.MLP]:
        """The first layer's part of each query and of each key, in float32 or better, and the score that reads them."""
        h, D, P = 1 if self.shared else q.shape[1], q.shape[3], self.projection_dim
        first, *others = self.hidden_dims
        q = _linear(q, self._kernel("query", (D, h, P), D), self._bias("query", (h, P), D))
        k = _linear(k, self._kernel("key", (D, h, P), D), self._bias("key", (h, P), D))
        q = _linear(q, self._kernel("hidden_0_query", (P, h, first), 2 * P), self._bias("hidden_0", (h, first), 2 * P))
        k = _linear(k, self._kernel("hidden_0_key", (P, h, first), 2 * P))
        names = [*(f"hidden_{layer}" for layer in range(1, len(self.hidden_dims))), "output"]
        sizes = list(zip(names, self.hidden_dims, (*others, 1), strict=True))
        return (
            q,
            k,
            core.MLP.of(
                [self._kernel(name, (i, h, o), i, after_relu=True).swapaxes(0, 1) for name, i, o in sizes],
                [self._bias(name, (h, o), i) for name, i, o in sizes],
            ),
        )

    def _kernel(self, name: str, shape: tuple[int, ...], fan_in: int, after_relu: bool = False) -> Array:
        init, args = (released_init, (fan_in,)) if self.as_published else (live_init, (fan_in, after_relu))
        boxed = nn.with_logical_partitioning(lambda key: init(key, shape, *args), (None, "heads", None))
        return self.param(f"{name}_kernel", boxed)

    def _bias(self, name: str, shape: tuple[int, ...], fan_in: int) -> Array:
        def init(key: Array) -> Array:
            return released_init(key, shape, fan_in) if self.as_published else jnp.zeros(shape)

        return self.param(f"{name}_bias", nn.with_logical_partitioning(init, ("heads", None)))


def _linear(x: Array, kernel: Float[Array, "i h o"], bias: Float[Array, "h o"] | None = None) -> Array:
    """A linear map of each head's features, or one that the heads share, in float32 or better."""
    shared = kernel.shape[1] == 1
    y = jnp.einsum(
        "bhti,io->bhto" if shared else "bhti,iho->bhto",
        x,
        (kernel[:, 0] if shared else kernel).astype(x.dtype),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    return y if bias is None else y + bias[None, :, None]


def _rows(features: Float[Array, "B H T F"]) -> Tokens:
    """The features apart, as the score reads them. Without any, what is left is that there are tokens."""
    rows = tuple(features[..., i] for i in range(features.shape[-1]))
    return rows or {"features": (), "tokens": jnp.zeros(features.shape[:-1])}


class NeuralAttention(Attention):
    """Multi-head attention whose score is a ReLU network of query and key.

    projection_dim: d', features of a query and of a key that the network sees; at least 2, None = max(2, D // 32).
    hidden_dims: units of the hidden layers, one number a layer; None = (d', d' // 2).
    shared_network: all heads share one network, as the paper's; False = one each.

    The network has biases and float32 parameters whatever `use_bias` and `dtype` are. With `rotary` it sees queries and
    keys turned by their positions, and may, unlike a dot product, use more of these than their difference.
    """

    projection_dim: int | None = None
    hidden_dims: tuple[int, ...] | None = None
    shared_network: bool = True

    def __post_init__(self):
        smallest = 0 if self.as_published else 2
        if self.projection_dim is not None and self.projection_dim < smallest:
            raise UserError(
                f"projection_dim is {self.projection_dim}, which leaves the score nothing to compare queries and keys "
                f"by: it must be at least {smallest}, or None for head_dim // 32 but no less than 2"
            )
        if self.hidden_dims is not None and (not self.hidden_dims or min(self.hidden_dims) < 1):
            raise UserError(
                f"hidden_dims is {self.hidden_dims}: give one number of units, at least 1, for each hidden layer, "
                "such as (4, 2), or None for (projection_dim, projection_dim // 2)"
            )
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
        head_dim = self.head_size(x.shape[-1])
        q = self.project("query", inputs.x, self.num_heads, head_dim)
        k = self.project("key", inputs.context, self.num_heads, head_dim)
        v = self.project("value", inputs.context, self.num_heads, head_dim)
        q, k = self.turned(inputs, q, k)
        projection_dim, hidden_dims = self.network_sizes(head_dim)
        network = ScoreNetwork(projection_dim, hidden_dims, self.shared_network, self.as_published, name="score")
        q, k, score = network(q, k)
        inputs, (k, v) = self.remember(inputs, key=k, value=v)
        out = self.attend(inputs, _rows(q), _rows(k), v, score=score, deterministic=deterministic)
        return self.finish(inputs, out)

    def network_sizes(self, head_dim: int) -> tuple[int, tuple[int, ...]]:
        """d' and the units of the hidden layers."""
        P = self.projection_dim
        if P is None:
            P = head_dim // 32 if self.as_published else max(2, head_dim // 32)
        return P, (P, P // 2) if self.hidden_dims is None else self.hidden_dims

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens attending to S (None = T, to themselves)."""
        S = T if S is None else S
        H, D = self.num_heads, self.head_size(width)
        P, hidden = self.network_sizes(D)
        layers = list(zip(hidden, (*hidden[1:], 1), strict=True))
        # Per pair a sum and a ReLU for each unit of the first layer, then products, sums and a ReLU, the last without.
        # Compiled, an elementwise score may cost more: XLA is free to compute it for every use anew.
        score = 2 * hidden[0] + sum(outputs * (2 * inputs + 1) for inputs, outputs in layers) - 1
        total = cost.attention(
            T,
            S,
            batch=batch,
            heads=H,
            key_heads=H,
            score=score,
            features=(hidden[0], hidden[0]),
            values=D,
            causal=self.causal,
            dtype_bytes=dtype_bytes,
        )
        for tokens, inputs, outputs in ((T, width, H * D), (S, width, H * D), (S, width, H * D), (T, H * D, width)):
            total += cost.projection(batch * tokens, inputs, outputs, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        networks = 1 if self.shared_network else H
        params = 2 * (D + 1) * P + (2 * P + 1) * hidden[0] + sum((inputs + 1) * outputs for inputs, outputs in layers)
        per_head = (T + S) * (P * (2 * D + 1) + 2 * P * hidden[0] + cost.ROTARY * D * self.rotary) + T * hidden[0]
        moved = networks * params + batch * H * (T + S) * (D + 2 * P + hidden[0])
        return total + cost.Cost(networks * params, batch * H * per_head, dtype_bytes * moved)
