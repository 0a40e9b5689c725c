"""Text that is shown while its tokens come in."""

from collections.abc import Sequence

import numpy as np

from jattn.data.text.tokenizers import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns growing rows of tokens into pieces of text, never half a character.

    A character's bytes may be divided over tokens. Until the last one is there they decode to one U+FFFD at the end of
    the text, which is held back; `end` lets it go.

    Args:
      tokenizer: of the tokens.
      prompt: tokens whose text is not shown again; how the continuation begins (with a space, say) may depend on them.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] | np.ndarray):
        self._tokenizer = tokenizer
        self._prompt = list(map(int, prompt))
        self._shown = len(self._complete([]))

    def feed(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text that can be shown now, and was not yet, of all tokens generated so far."""
        return self._more(self._complete(tokens))

    def end(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The same when no more tokens follow."""
        return self._more(self._text(tokens))

    def _more(self, text: str) -> str:
        new = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return new

    def _text(self, tokens: Sequence[int] | np.ndarray) -> str:
        return self._tokenizer.decode([*self._prompt, *map(int, tokens)])

    def _complete(self, tokens: Sequence[int] | np.ndarray) -> str:
        return self._text(tokens).removesuffix(_INCOMPLETE)
