"""Options of a data set or an augmentation: the fields of its class, checked by name, type and range."""

import dataclasses
import types
import typing
from typing import Any

from jattn.errors import UserError, unknown

FROM_CONFIG = ("source", "path", "tokenizer")
"""Fields of a data set that are no options: they come from the config's own fields of these names."""


def check_options(owner: str, cls: type, options: dict[str, Any]) -> None:
    """Raise UserError unless every option is a field of the class and its value of the field's type.

    `owner` says in messages whose options they are: "data set digits".
    """
    hints = typing.get_type_hints(cls)
    fields = [field.name for field in dataclasses.fields(cls) if field.name not in FROM_CONFIG]
    for option, value in options.items():
        if option not in fields:
            raise unknown(f"option of {owner}", option, fields)
        if not _fits(value, hints[option]):
            expected = getattr(hints[option], "__name__", str(hints[option]))
            raise UserError(f"option {option}={value!r} of {owner} must be of type {expected}")


def check_range(dataset: Any, option: str, low: float | int, high: float | int | None = None) -> None:
    """Raise UserError unless low <= the option's value <= high."""
    value = getattr(dataset, option)
    if value < low or (high is not None and value > high):
        allowed = f"{low} or more" if high is None else f"between {low} and {high}"
        raise UserError(f"option {option}={value} of {type(dataset).__name__} must be {allowed}")


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, typing.get_origin(hint) or hint)
