"""Language model, text classifier and Vision Transformer: one block, any mixture of mechanisms."""

from jattn.models.block import Block
from jattn.models.build import MODELS, build
from jattn.models.classifier import TextClassifier
from jattn.models.frozen_spans import freeze_spans
from jattn.models.language_model import LanguageModel
from jattn.models.summary import summary
from jattn.models.vit import VisionTransformer

__all__ = [
    "MODELS",
    "Block",
    "LanguageModel",
    "TextClassifier",
    "VisionTransformer",
    "build",
    "freeze_spans",
    "summary",
]
