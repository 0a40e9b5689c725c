"""Texts that a language model writes while it is trained."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn.config import Config
from jattn.data import Dataset
from jattn.data.text.tokenizers import Tokenizer
from jattn.errors import UserError
from jattn.generation import TextStream, generate
from jattn.models import LanguageModel
from jattn.models.transformer import Transformer
from jattn.training.step import root_key, step_keys

PROMPT_TOKENS = 16
"""Of a text of the validation split that a sample continues; at most half of the model's context."""


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote behind it."""

    prompt: str
    text: str

    @property
    def shown(self) -> str:
        """Both, one behind the other."""
        return self.prompt + self.text

    def __str__(self) -> str:
        """On one line, as two strings in JSON, without characters that a terminal would obey."""
        line = " -> ".join(json.dumps(part, ensure_ascii=False) for part in (self.prompt, self.text))
        return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)


@dataclass(frozen=True)
class Sampler:
    """Writes the same texts again after the same step of the same run. Made by `build`."""

    model: LanguageModel
    tokenizer: Tokenizer
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int
    seed: int

    def __call__(self, step: int, params: Mapping[str, Any]) -> list[Sample]:
        """One text for each prompt, from the parameters after `step` steps."""
        keys = jax.random.split(step_keys(root_key(self.seed), jnp.int32(step))["sampling"], len(self.prompts))
        texts = generate(self.model, params, self.prompts, keys, max_tokens=self.max_tokens)
        return [self._sample(prompt, text) for prompt, text in zip(self.prompts, texts, strict=True)]

    def _sample(self, prompt: tuple[int, ...], tokens: np.ndarray) -> Sample:
        """A prompt of bytes may end within a character, which then belongs to what follows."""
        whole = self.tokenizer.decode([*prompt, *tokens.tolist()])
        text = TextStream(self.tokenizer, prompt).end(tokens)
        return Sample(whole.removesuffix(text), text)


def build(config: Config, dataset: Dataset, model: Transformer) -> Sampler | None:
    """What writes the samples that `config.logging` asks for; None if it asks for none.

    Raises:
      UserError: the model writes no text, or there is no room for one behind the prompt.
    """
    options = config.logging
    if options.sample_every is None:
        return None
    tokenizer = dataset.fitted
    if not isinstance(model, LanguageModel) or tokenizer is None:
        raise UserError(
            f"logging.sample_every={options.sample_every} asks for texts, which model {config.model.name} on data set "
            f"{config.data.name} does not write: leave it at None"
        )
    context = dataset.task.length if model.max_length is None else model.max_length
    if options.sample_prompt:
        prompts = [tokenizer.encode(options.sample_prompt)] * options.sample_count
    else:
        place = np.arange(options.sample_count) * dataset.size("valid") // options.sample_count
        windows = dataset.examples("valid", place, np.zeros_like(place))["inputs"]
        prompts = windows[:, : max(1, min(PROMPT_TOKENS, context // 2))]
    longest = max(map(len, prompts))
    if not 0 < longest < context:
        raise UserError(
            f"logging.sample_prompt has {longest} tokens: it must have one at least and leave room in the model's "
            f"context of {context} tokens"
        )
    model.clone(decode=True)  # raises if a mechanism cannot
    tokens = tuple(tuple(map(int, prompt)) for prompt in prompts)
    return Sampler(model, tokenizer, tokens, options.sample_tokens, config.seed)
