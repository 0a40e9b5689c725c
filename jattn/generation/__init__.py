"""Text from a language model: `generate(model, params, prompts)`, with the decode cache."""

from jattn.generation.generate import Generation, check_prompts, generate
from jattn.generation.sampling import Sampling
from jattn.generation.text import TextStream

__all__ = ["Generation", "Sampling", "TextStream", "check_prompts", "generate"]
