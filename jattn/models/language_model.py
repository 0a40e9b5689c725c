"""A decoder: every token's features predict the next token."""

from typing import ClassVar

import flax.linen as nn

from jattn.config import ModelConfig
from jattn.models.layers import TokenEmbedding, output_layer
from jattn.models.transformer import Transformer
from jattn.types import Array, Float, Int


class LanguageModel(Transformer, kw_only=True):
    """Causal language model; logits[t] depend on tokens up to t only, unless `causal` is False.

    >>> import jax, jax.numpy as jnp
    >>> model = LanguageModel(vocab_size=11, width=8, depth=1, num_heads=2)
    >>> tokens = jnp.zeros((2, 5), jnp.int32)
    >>> variables = model.init(jax.random.key(0), tokens)
    >>> model.apply({"params": variables["params"]}, tokens).shape
    (2, 5, 11)
    """

    kind: ClassVar[str] = "language"

    vocab_size: int
    tie_embeddings: bool = ModelConfig.tie_embeddings
    causal: bool = ModelConfig.causal

    @nn.compact
    def __call__(self, inputs: Int[Array, "B T"], *, deterministic: bool = True) -> Float[Array, "B T V"]:
        """Tokens to float32 logits over the vocabulary. Tied output weights have no bias."""
        embedding = TokenEmbedding(self.vocab_size, self.width, self.dtype, name="token_embedding")
        x, _ = self.features(embedding(inputs), None, deterministic)
        if self.tie_embeddings:
            return embedding.attend(x)
        return output_layer(self.vocab_size, use_bias=self.use_bias, dtype=self.dtype)(x)
