"""What the three models share: their options, and the way from embeddings to features."""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from jattn.attention.mechanism import Mechanism, mechanism
from jattn.config import ModelConfig
from jattn.models.block import Block, rematerialized
from jattn.models.checks import check_options
from jattn.models.dropout import Dropout
from jattn.models.layers import layer_norm
from jattn.models.positions import FIXED, LearnedPositions, check_length
from jattn.types import Array, Bool, DTypeLike, Float, Int


class Transformer(nn.Module, kw_only=True):
    """Options of every model; `jattn.config.ModelConfig` says what each means and holds their defaults.

    attention: the mechanism of all layers, or one for each.
    max_length: longest sequence, class token included; None = any (learned positions: that of `init`). Mechanisms
      that have an option of this name get it, unless they set it themselves.
    decode: attention keeps caches, and positions count on from call to call (language model only). As in flax,
      `init` on an input of the longest length sizes the caches; `apply` with `mutable=["cache"]` advances them.

    Raises UserError when made with options that contradict each other.
    """

    kind: ClassVar[str] = ""  # of task: language, text or image
    causal: ClassVar[bool] = False

    width: int = ModelConfig.width
    depth: int = ModelConfig.depth
    num_heads: int = ModelConfig.num_heads
    mlp_dim: int | None = ModelConfig.mlp_dim
    activation: str = ModelConfig.activation
    norm_position: str = ModelConfig.norm_position
    norm_epsilon: float | int = ModelConfig.norm_epsilon
    norm_bias: bool = ModelConfig.norm_bias
    final_norm: bool | None = ModelConfig.final_norm
    embedding_norm: bool = ModelConfig.embedding_norm
    use_bias: bool = ModelConfig.use_bias
    positions: str = ModelConfig.positions
    embedding_scale: float | int = ModelConfig.embedding_scale
    max_length: int | None = ModelConfig.max_length
    dropout_rate: float | int = ModelConfig.dropout_rate
    embedding_dropout_rate: float | int | None = ModelConfig.embedding_dropout_rate
    attention_dropout_rate: float | int = ModelConfig.attention_dropout_rate
    mlp_dropout_rate: float | int = ModelConfig.mlp_dropout_rate
    remat: str = ModelConfig.remat
    dtype: DTypeLike = ModelConfig.dtype
    implementation: str | None = ModelConfig.implementation
    attention: Mechanism | tuple[Mechanism, ...] = Mechanism("softmax", ())
    decode: bool = False

    def __post_init__(self):
        check_options(self)
        super().__post_init__()

    @nn.nowrap
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """The mechanism of each layer, with what the model's options say about all of them.

        A layer's own options win: `rotary=False` leaves one layer without positions. A mechanism that lacks rotary
        positions, such as a convolution, knows the order of tokens without them.
        """
        layers = self.attention if isinstance(self.attention, tuple) else (self.attention,) * self.depth
        shared: dict[str, Any] = {}
        if self.positions == "rotary":
            shared["rotary"] = True
        if self.max_length is not None:
            shared["max_length"] = self.max_length

        def takes(layer: Mechanism, option: str) -> bool:
            return layer.has_field(option) and not layer.lacks(option)

        return tuple(
            mechanism(layer.name, {k: v for k, v in shared.items() if takes(layer, k)} | dict(layer.options))
            for layer in layers
        )

    @nn.nowrap
    def block_options(self) -> dict[str, Any]:
        """The fields of `Block` that all layers share."""
        return {
            "num_heads": self.num_heads,
            "mlp_dim": 4 * self.width if self.mlp_dim is None else self.mlp_dim,
            "activation": self.activation,
            "norm_position": self.norm_position,
            "norm_epsilon": self.norm_epsilon,
            "norm_bias": self.norm_bias,
            "use_bias": self.use_bias,
            "causal": self.causal,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "mlp_dropout_rate": self.mlp_dropout_rate,
            "dtype": self.dtype,
            "implementation": self.implementation,
            "decode": self.decode,
        }

    @nn.nowrap
    def features(
        self,
        x: Float[Array, "B T C"],
        mask: Bool[Array, "B T"] | None,
        deterministic: bool,
        *,
        class_token: nn.initializers.Initializer | None = None,
    ) -> tuple[Float[Array, "B S C"], Bool[Array, "B S"] | None]:
        """From token or patch embeddings to what the output layer sees, and its mask; a class token, which
        begins as its initializer says, stands in front of them.

        To be called inside a model's compact method, so that the layers belong to the model.
        """
        norm = functools.partial(layer_norm, epsilon=self.norm_epsilon, use_bias=self.norm_bias, dtype=self.dtype)
        if self.embedding_norm:
            x = norm(name="norm_embedding")(x)
        if class_token is not None:
            x, mask = self._prepend_class_token(x, mask, class_token)
        length = x.shape[1]
        check_length(length, self.max_length)
        positions = self._first_position(length) + jnp.arange(length)
        # The class token is scaled like the others, as in neural attention's vision model.
        x = x * jnp.asarray(self.embedding_scale, x.dtype)
        if self.positions in FIXED:
            x = x + FIXED[self.positions](positions, self.width).astype(x.dtype)[None]
        elif self.positions in ("learned", "learned_every_layer"):
            x = self._add_learned(x, positions, "position_embedding")
        own = self.embedding_dropout_rate
        x = Dropout(self.dropout_rate if own is None else own)(x, deterministic=deterministic)
        # Decoding has no backward pass to recompute anything for.
        block: type[Block] = rematerialized("none" if self.decode else self.remat)
        options = self.block_options()
        for i, layer in enumerate(self.mechanisms()):
            if i > 0 and self.positions == "learned_every_layer":
                x = self._add_learned(x, positions, f"position_embedding_{i}")
            x = block(mechanism=layer, **options, name=f"block_{i}")(x, mask, deterministic)
        has_final_norm = self.norm_position == "pre" if self.final_norm is None else self.final_norm
        return (norm(name="norm_output")(x) if has_final_norm else x), mask

    @nn.nowrap
    def _prepend_class_token(
        self, x: Array, mask: Array | None, init: nn.initializers.Initializer
    ) -> tuple[Array, Array | None]:
        """One learned token before all others; it is real where others are padding."""
        boxed = nn.with_logical_partitioning(init, ("embed",))
        token = self.param("class_token", boxed, (self.width,)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1)
        if mask is not None:
            mask = jnp.concatenate([jnp.ones((x.shape[0], 1), mask.dtype), mask], axis=1)
        return x, mask

    @nn.nowrap
    def _add_learned(self, x: Array, positions: Array, name: str) -> Array:
        rows = LearnedPositions(self.max_length, self.width, name=name)(positions)
        return x + rows.astype(x.dtype)[None]

    @nn.nowrap
    def _first_position(self, length: int) -> Int[Array, ""] | int:
        """The position of this call's first token: 0, or when decoding the number of tokens seen by earlier calls."""
        if not self.decode:
            return 0
        position = self.variable("cache", "position", jnp.zeros, (), jnp.int32)
        first = position.value
        if not self.is_initializing():
            position.value = first + length
        return first
