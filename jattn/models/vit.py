"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929): a picture is a sequence of patches."""

from typing import ClassVar

import flax.linen as nn

from jattn.config import ModelConfig
from jattn.models.classifier import Classifier
from jattn.models.layers import PatchEmbedding
from jattn.types import Array, Float


class VisionTransformer(Classifier, kw_only=True):
    """Bidirectional encoder of patches, read row by row; pooled by their mean or by a class token at position 0."""

    kind: ClassVar[str] = "image"

    patch_size: int = ModelConfig.patch_size

    @nn.compact
    def __call__(self, inputs: Float[Array, "B h w c"], *, deterministic: bool = True) -> Float[Array, "B N"]:
        """Float pictures, already normalised, to float32 logits; UserError if the patch does not divide them."""
        embedding = PatchEmbedding(self.patch_size, self.width, self.use_bias, self.dtype, name="patch_embedding")
        return self.classify(embedding(inputs), None, deterministic)
