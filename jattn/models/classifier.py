"""One class for a whole sequence: the head that classifiers share, and the text classifier."""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn.config import ModelConfig
from jattn.errors import UserError
from jattn.models.checks import check_pooling
from jattn.models.dropout import Dropout
from jattn.models.layers import TokenEmbedding, dense, output_layer
from jattn.models.transformer import Transformer
from jattn.types import Array, Bool, DTypeLike, Float, Int


def pool(x: Float[Array, "B T C"], mask: Bool[Array, "B T"] | None, pooling: str) -> Float[Array, "B C"]:
    """One vector a sequence: the first token's ("class_token"), or the mean over valid tokens ("mean").

    A sequence without a valid token has mean zero. The mean is taken in float32.
    """
    if pooling == "class_token":
        return x[:, 0]
    valid = jnp.ones(x.shape[:2], bool) if mask is None else mask
    valid = valid[:, :, None].astype(jnp.float32)
    total = jnp.sum(x.astype(jnp.float32) * valid, axis=1)
    return (total / jnp.maximum(jnp.sum(valid, axis=1), 1.0)).astype(x.dtype)


class ClassifierHead(nn.Module):
    """Features of a sequence to float32 logits: pool, optionally one ReLU layer, output layer; dropout before both."""

    num_outputs: int
    pooling: str = ModelConfig.pooling
    hidden_dim: int | None = ModelConfig.head_hidden_dim
    dropout_rate: float | int = ModelConfig.head_dropout_rate
    use_bias: bool = ModelConfig.use_bias
    dtype: DTypeLike = ModelConfig.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T C"], mask: Bool[Array, "B T"] | None = None, deterministic: bool = True
    ) -> Float[Array, "B N"]:
        """Features and which of them are valid (None = all) to logits."""
        # One vector a sequence is one token for dropout.
        dropout = functools.partial(Dropout(self.dropout_rate), deterministic=deterministic)
        x = dropout(pool(x, mask, self.pooling)[:, None])
        if self.hidden_dim is not None:
            options = {"use_bias": self.use_bias, "dtype": self.dtype}
            x = dropout(jax.nn.relu(dense(self.hidden_dim, ("embed", "mlp"), name="hidden", **options)(x)))
        return output_layer(self.num_outputs, use_bias=self.use_bias, dtype=self.dtype)(x)[:, 0]


class Classifier(Transformer, kw_only=True):
    """Options of models that give one class a sequence."""

    num_outputs: int
    pooling: str = ModelConfig.pooling
    head_hidden_dim: int | None = ModelConfig.head_hidden_dim
    class_token_std: float | int = ModelConfig.class_token_std
    head_dropout_rate: float | int = ModelConfig.head_dropout_rate

    def __post_init__(self):
        check_pooling(self.pooling)
        if self.class_token_std < 0:
            raise UserError(f"class_token_std is {self.class_token_std}: it must be at least 0")
        if self.class_token_std and self.pooling != "class_token":
            raise UserError(f"class_token_std={self.class_token_std} does nothing with pooling={self.pooling!r}")
        super().__post_init__()

    @nn.nowrap
    def classify(
        self, x: Float[Array, "B T C"], mask: Bool[Array, "B T"] | None, deterministic: bool
    ) -> Float[Array, "B N"]:
        """Embeddings to logits. To be called inside a model's compact method."""
        x, mask = self.features(x, mask, deterministic, class_token=self._class_token())
        options = {"use_bias": self.use_bias, "dtype": self.dtype, "name": "head"}
        head = ClassifierHead(self.num_outputs, self.pooling, self.head_hidden_dim, self.head_dropout_rate, **options)
        return head(x, mask, deterministic)

    @nn.nowrap
    def _class_token(self) -> nn.initializers.Initializer | None:
        """How the class token begins, if there is one: at zero, as in ViT, unless asked otherwise."""
        if self.pooling != "class_token":
            return None
        return nn.initializers.normal(self.class_token_std) if self.class_token_std else nn.initializers.zeros


class TextClassifier(Classifier, kw_only=True):
    """Bidirectional encoder of a text, pooled over its valid tokens: those that are not `padding_token`, which fills a
    text up to the batch's length and changes nothing. Without one (None) every token is read."""

    kind: ClassVar[str] = "text"

    vocab_size: int
    padding_token: int | None = ModelConfig.padding_token

    @nn.compact
    def __call__(self, inputs: Int[Array, "B T"], *, deterministic: bool = True) -> Float[Array, "B N"]:
        """Tokens to float32 logits. A text of padding alone gives what the head makes of no features."""
        embedding = TokenEmbedding(self.vocab_size, self.width, self.dtype, name="token_embedding")
        mask = None if self.padding_token is None else inputs != self.padding_token
        return self.classify(embedding(inputs), mask, deterministic)
