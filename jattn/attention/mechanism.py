"""Which mechanism each layer of a model uses: names and option strings, checked against the modules' fields."""

import dataclasses
import itertools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from jattn.attention import MECHANISMS
from jattn.attention.base import Lacking
from jattn.errors import UserError, unknown
from jattn.literals import parse_calls, parse_indexed_calls, parse_options

_SET_BY_MODEL = ("causal", "decode", "dtype")
_OF_LINEN = ("name", "parent")


@dataclass(frozen=True)
class Mechanism:
    """A checked name and options; hashable. Made by `mechanism`, turned into a module by `module`."""

    name: str
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        """As on a command line: "neural(projection_dim=4)"."""
        options = ", ".join(f"{option}={value!r}" for option, value in self.options)
        return f"{self.name}({options})" if options else self.name

    def module(self, **common: Any) -> nn.Module:
        """The unbound module: `common` fields as the model sets them, but for those that the mechanism keeps;
        options override them.

        Raises:
          UserError: a field's value is impossible, or the mechanism lacks what it asks for (then it names those that
            have it).
        """
        try:
            made = MECHANISMS[self.name]
            taken = {field: value for field, value in common.items() if field not in made.keeps}
            return made(**(taken | dict(self.options)))
        except Lacking as error:
            able = [name for name, other in MECHANISMS.items() if error.feature not in other.lacks]
            raise UserError(f"mechanism {self.name!r}: {error}; these have it: {', '.join(able) or 'none'}") from None

    def has_field(self, name: str) -> bool:
        """Whether the mechanism's module has a field of this name, such as "max_length"."""
        return name in _hints(self.name)

    def lacks(self, feature: str) -> bool:
        """Whether the mechanism legitimately lacks a feature (see `jattn.attention.FEATURES`)."""
        return feature in MECHANISMS[self.name].lacks


def mechanism(name: str, options: Mapping[str, Any]) -> Mechanism:
    """The mechanism of this name with options checked against the fields of its module.

    Raises:
      UserError: the name is unknown, or an option is unknown, belongs to the model, or has a value of a wrong type.
    """
    if name not in MECHANISMS:
        raise unknown("mechanism", name, MECHANISMS)
    hints = {field: hint for field, hint in _hints(name).items() if field not in _SET_BY_MODEL}
    for option, value in options.items():
        if option in _SET_BY_MODEL:
            raise UserError(f"option {option} of mechanism {name!r} is set by the model for all layers: leave it out")
        if option not in hints:
            raise unknown(f"option of mechanism {name!r}", option, hints)
        if not _fits(_tuples(value), hints[option]):
            raise UserError(f"option {option} of mechanism {name!r} is {value!r}: it must be {_said(hints[option])}")
    return Mechanism(name, tuple(sorted((option, _tuples(value)) for option, value in options.items())))


def mix(depth: int, name: str, options: str = "", layers: str = "", pattern: str = "") -> tuple[Mechanism, ...]:
    """The mechanism of each of `depth` layers.

    Args:
      name, options: the mechanism of all layers, such as "neural" and "projection_dim=4".
      layers: overrides by index, such as "0:neural(projection_dim=4), 3:local(window=64)".
      pattern: replaces `name` in all layers by a sequence repeated over the depth, such as "local, local, softmax";
        the last repetition may be cut short.

    Raises:
      UserError: a string cannot be read, a mechanism is invalid (see `mechanism`), an index lies outside of the
        depth, the pattern is longer than the depth, or options are given for a name that a pattern replaces.
    """
    if pattern.strip():
        if options.strip():
            raise UserError(
                f"options {options!r} belong to mechanism {name!r}, which pattern {pattern!r} replaces: "
                "write them inside the pattern, as in 'local(window=64), softmax'"
            )
        sequence = [mechanism(*call) for call in parse_calls(pattern)]
        if len(sequence) > depth:
            raise UserError(f"pattern {pattern!r} has {len(sequence)} layers, the model {depth}: shorten the pattern")
    else:
        sequence = [mechanism(name, parse_options(options))]
    chosen = list(itertools.islice(itertools.cycle(sequence), depth))
    for index, call in parse_indexed_calls(layers).items():
        if not 0 <= index < depth:
            raise UserError(f"layer {index} in {layers!r} does not exist: the model has layers 0 to {depth - 1}")
        chosen[index] = mechanism(*call)
    return tuple(chosen)


def _hints(name: str) -> dict[str, Any]:
    """The fields of a mechanism's module and their types, without those that every linen module has."""
    hints = typing.get_type_hints(MECHANISMS[name])
    fields = (field.name for field in dataclasses.fields(MECHANISMS[name]))
    return {field: hints[field] for field in fields if field not in _OF_LINEN}


def _tuples(value: Any) -> Any:
    """Lists as tuples, all the way down: module fields are hashable."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a literal is a value of a field's type; True and False are no numbers."""
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            return any(_fits(value, option) for option in arguments)
        case typing.Literal:
            return any(type(value) is type(option) and value == option for option in arguments)
        case origin if origin is tuple and arguments[-1:] == (...,):
            return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
        case origin if origin is tuple:
            pairs = isinstance(value, tuple) and len(value) == len(arguments)
            return pairs and all(map(_fits, value, arguments))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint or (value is None and hint is type(None))


def _said(hint: Any) -> str:
    """A type in words: "int or None", "one of 'a', 'b'"."""
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            return " or ".join(_said(option) for option in arguments)
        case typing.Literal:
            return "one of " + ", ".join(map(repr, arguments))
        case None if hint is type(None):
            return "None"
        case None:
            return hint.__name__
    return str(hint)
