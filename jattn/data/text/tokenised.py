"""What data sets of text files share: a tokenizer, and tokens that are made once and kept on disk."""

import abc
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jattn.data.cache import Entry, Writer, cached
from jattn.data.places import get_command
from jattn.data.text.files import Damaged, File, fingerprint
from jattn.data.text.recipes import ReadyRecipe, Recipe, parse
from jattn.data.text.stored import from_json
from jattn.data.text.tokenizers import Tokenizer
from jattn.errors import UserError

FORMAT = 2  # of what is made from files; another number makes all of it anew


class Tokenised(abc.ABC):
    """A dataclass with the fields `path` and `tokenizer`, whose tokens lie in the cache."""

    not_cached: ClassVar[tuple[str, ...]]  # fields that change nothing of what is kept
    default_tokenizer: ClassVar[str]
    source: str
    tokenizer: str

    @property
    def published(self) -> str:
        """Its name for `python -m jattn data get`; empty if it cannot be got so."""
        return ""

    @property
    @abc.abstractmethod
    def place(self) -> Path:
        """Where it is looked for."""

    @abc.abstractmethod
    def files(self) -> list[File]:
        """All files that are read. Raises UserError if they are not there."""

    @abc.abstractmethod
    def make(self, writer: Writer) -> dict[str, Any]:
        """Writes the tokens; returns what to remember, among it the tokenizer's JSON as `tokenizer`."""

    @cached_property
    def recipe(self) -> Recipe:
        """Of the tokenizer."""
        return parse(self.tokenizer or self.default_tokenizer)

    @cached_property
    def fitted(self) -> Tokenizer:
        """The tokenizer."""
        return from_json(self.entry.facts["tokenizer"])

    def kept(self) -> dict[str, str]:
        """The tokenizer, unless there is nothing to know of it."""
        return {"tokenizer.json": self.entry.facts["tokenizer"]} if self.recipe.learned else {}

    def __getstate__(self) -> dict[str, Any]:
        """Options only: another process maps the tokens itself."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @cached_property
    def entry(self) -> Entry:
        """The tokens on disk."""
        options = self.__getstate__() | {"path": str(self.place), "class": type(self).__name__}
        for name in self.not_cached:
            del options[name]
        ready = self.recipe.tokenizer.digest() if isinstance(self.recipe, ReadyRecipe) else repr(self.recipe)
        made_from = {"format": FORMAT, "files": fingerprint(self.files()), "tokenizer": ready}
        try:
            return cached(type(self).__name__.lower(), options, made_from, self.make)
        except Damaged as error:
            if not self.published or self.source != "folder":
                raise
            folder = self.place.parent if self.place.is_file() else self.place
            raise UserError(
                f"{error.fault}: remove it, and get it again with {get_command(self.published, folder)}"
            ) from error


def smallest_type(count: int) -> np.dtype:
    """The smallest unsigned type that holds 0 .. count - 1."""
    return np.min_scalar_type(count - 1)
