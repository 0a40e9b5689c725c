"""Tokens after tokens, with the decode cache: one pass over the prompts, then one step a token.

Prompts of a batch may differ in length. All begin at position 0; the first pass reads as many tokens as the shortest
has, and where a longer prompt still says what comes next, that is taken instead of what was chosen. So there is no
padding for any mechanism to honour, and a text does not depend on the others of its batch.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jattn.errors import UserError
from jattn.generation.sampling import Sampling, choose
from jattn.models import LanguageModel
from jattn.models.transformer import Transformer
from jattn.types import Array, Int, Key

Tokens = Sequence[int] | np.ndarray


def generate(
    model: Transformer,
    params: Mapping[str, Any],
    prompts: Sequence[Tokens],
    keys: Key[Array, " B"],
    *,
    max_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
) -> list[np.ndarray]:
    """What follows each prompt: int32 tokens, `max_tokens` of them or as many as the model's context has room for.

    Args:
      model: as it was trained (`decode` is set here).
      params: its `params` collection.
      prompts: of each text, at least one token.
      keys: of each text: with the same key, prompt and parameters it is the same text, in whatever batch.
      max_tokens: to generate, at least 1.
      sampling: how they are chosen.

    Raises:
      UserError: a prompt is empty, fills the context or has tokens that the model does not know; or `model` is no
        language model, or has a mechanism that cannot decode.

    >>> model = LanguageModel(vocab_size=11, width=8, depth=1, num_heads=2, max_length=6)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    >>> keys = jax.random.split(jax.random.key(1), 2)
    >>> [text.shape for text in generate(model, params, [[1, 2], [3]], keys, max_tokens=4)]
    [(4,), (4,)]
    """
    texts = Generation(model, params, prompts, keys, max_tokens=max_tokens, sampling=sampling)
    texts.advance()
    return texts.tokens()


class Generation:
    """Texts that can be looked at while they grow; arguments and errors are those of `generate`.

    Attributes:
      ends: of each text, where it ends: tokens of prompt and continuation.
      context: tokens of the longest text that the model can hold, None = any.
    """

    def __init__(
        self,
        model: Transformer,
        params: Mapping[str, Any],
        prompts: Sequence[Tokens],
        keys: Key[Array, " B"],
        *,
        max_tokens: int,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    ):
        if max_tokens < 1:
            raise UserError(f"max_tokens={max_tokens} must be at least 1")
        params = nn.unbox(params)
        self.context = check_prompts(model, params, prompts)
        self._lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        self.ends = self._lengths + max_tokens
        if self.context is not None:
            self.ends = np.minimum(self.ends, self.context)
        self._end, first = int(self.ends.max()), int(self._lengths.min())
        padded = np.zeros((len(prompts), self._end), np.int32)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt
        self._model, self._params, self._keys = model.clone(decode=True), params, keys
        self._sampling, self._position = sampling, first + 1
        self._state = _begin(self._model, params, padded, self._lengths, keys, first=first, sampling=sampling)

    @property
    def done(self) -> bool:
        """Whether every text has come to its end."""
        return self._position >= self._end

    def advance(self, count: int | None = None) -> None:
        """Makes every text `count` tokens longer; None = to the end."""
        stop = self._end if count is None else min(self._position + count, self._end)
        if stop > self._position:
            self._state = _advance(
                self._model, self._params, self._state, self._lengths, self._keys, stop, sampling=self._sampling
            )
            self._position = stop

    def tokens(self) -> list[np.ndarray]:
        """What has been generated so far, without the prompts, int32."""
        text = np.asarray(self._state.text)
        stops = np.minimum(self.ends, self._position)
        return [row[length:stop] for row, length, stop in zip(text, self._lengths, stops, strict=True)]


class _State(NamedTuple):
    text: Int[Array, "B L"]
    position: Int[Array, ""]  # tokens that are there; the model has seen all but the last
    cache: Any


@functools.partial(jax.jit, static_argnames=("model", "first", "sampling"))
def _begin(
    model: LanguageModel,
    params: Mapping[str, Any],
    text: Int[Array, "B L"],
    lengths: Int[Array, " B"],
    keys: Key[Array, " B"],
    *,
    first: int,
    sampling: Sampling,
) -> _State:
    """Reads `first` tokens in one pass and chooses one more."""
    # The last token is never read. Caches are empty at first: nothing of `init` is computed.
    shapes = jax.eval_shape(model.init, jax.random.key(0), text[:, : max(first, text.shape[1] - 1)])["cache"]
    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nn.unbox(shapes))
    state = _State(text, jnp.asarray(first), cache)
    return _read(model, params, state, text[:, :first], lengths, keys, sampling)


@functools.partial(jax.jit, static_argnames=("model", "sampling"), donate_argnames="state")
def _advance(
    model: LanguageModel,
    params: Mapping[str, Any],
    state: _State,
    lengths: Int[Array, " B"],
    keys: Key[Array, " B"],
    stop: Int[Array, ""] | int,
    *,
    sampling: Sampling,
) -> _State:
    """One token after the other until there are `stop`."""

    def step(state: _State) -> _State:
        last = jax.lax.dynamic_slice_in_dim(state.text, state.position - 1, 1, axis=1)
        return _read(model, params, state, last, lengths, keys, sampling)

    return jax.lax.while_loop(lambda state: state.position < stop, step, state)


def _read(
    model: LanguageModel,
    params: Mapping[str, Any],
    state: _State,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    keys: Key[Array, " B"],
    sampling: Sampling,
) -> _State:
    """The model reads the last `tokens` of the texts, and each gets one more: its prompt's, or the chosen one."""
    variables = {"params": params, "cache": state.cache}
    logits, updated = model.apply(variables, tokens, mutable=["cache"])
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, state.position)
    chosen = choose(logits[:, -1], own, sampling).astype(state.text.dtype)
    given = jax.lax.dynamic_index_in_dim(state.text, state.position, axis=1, keepdims=False)
    chosen = jnp.where(state.position < lengths, given, chosen)
    text = jax.lax.dynamic_update_index_in_dim(state.text, chosen, state.position, axis=1)
    return _State(text, state.position + 1, updated["cache"])


def check_prompts(model: Transformer, params: Mapping[str, Any], prompts: Sequence[Tokens]) -> int | None:
    """Raises UserError for a prompt that the model cannot continue; returns the model's context, None = any length."""
    if not isinstance(model, LanguageModel):
        raise UserError(f"text is generated by a language model, not by a {type(model).__name__}")
    context = model.max_length
    if context is None and "position_embedding" in params:
        context = params["position_embedding"]["embedding"].shape[0]
    if not prompts:
        raise UserError("there is no prompt: a text is continued from at least one token")
    for prompt in prompts:
        if len(prompt) == 0:
            raise UserError("the prompt is empty: a text is continued from at least one token")
        if context is not None and len(prompt) >= context:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the model's context {context} (model.max_length), which "
                f"leaves no room for more: shorten the prompt to at most {context - 1} tokens"
            )
        if not 0 <= min(prompt) <= max(prompt) < model.vocab_size:
            raise UserError(
                f"the prompt has tokens outside of 0 to {model.vocab_size - 1}: it is of another vocabulary"
            )
    return context
