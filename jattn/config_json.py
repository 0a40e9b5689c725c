"""A run's config as JSON, back again with its types, and the difference of two configs."""

import dataclasses
import hashlib
import json
import types
import typing
from typing import Any

from jattn.config import Config
from jattn.errors import UserError, unknown


def to_json(config: Config) -> str:
    """The text of `config.json`: every option, nested as in `jattn.config`, floats exact."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The config that `to_json` wrote. Absent options have their defaults: older runs lack newer options.

    Raises:
      UserError: the text is not JSON, has an unknown option, or a value of the wrong type.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"config.json is not JSON ({error}); restore it or start anew with --restart") from error
    return _build(Config, values, "")


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that name a config: equal if and only if all options are."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:12]


def differences(old: Config, new: Config) -> list[str]:
    """One line per option that differs: `model.width: 128 -> 64`.

    >>> differences(Config(steps=10), Config(steps=20))
    ['steps: 10 -> 20']
    """
    before, after = flatten(old), flatten(new)
    # repr, not ==: nan equals itself, and 1 differs from True.
    return [
        f"{name}: {before[name]!r} -> {after[name]!r}" for name in before if repr(before[name]) != repr(after[name])
    ]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Options by their dotted names, as the command line spells them: `{"model.width": 128, ...}`."""
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def field_types(kind: type = Config, prefix: str = "") -> dict[str, Any]:
    """Annotation of every option by its dotted name: `{"model.mlp_dim": int | None, ...}`."""
    flat = {}
    for name, annotation in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(annotation):
            flat |= field_types(annotation, f"{prefix}{name}.")
        else:
            flat[prefix + name] = annotation
    return flat


def type_name(annotation: Any) -> str:
    """How an error calls a type.

    >>> type_name(int | None), type_name(float)
    ('int or None', 'float')
    """
    members = typing.get_args(annotation) or (annotation,)
    return " or ".join("None" if member is types.NoneType else member.__name__ for member in members)


def _build(kind: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"config.json: {prefix.rstrip('.') or 'the whole'} must be an object, not {values!r}")
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise unknown("option in config.json", prefix + name, [prefix + known for known in hints])
    built = {}
    for name, value in values.items():
        annotation = hints[name]
        if dataclasses.is_dataclass(annotation):
            built[name] = _build(annotation, value, f"{prefix}{name}.")
        else:
            built[name] = _cast(annotation, value, prefix + name)
    return kind(**built)


def _cast(annotation: Any, value: Any, name: str) -> Any:
    members = typing.get_args(annotation) or (annotation,)
    if float in members and type(value) is int:  # JSON of other writers: 1 for 1.0
        return float(value)
    if type(value) not in members:
        raise UserError(f"config.json: {name} must be {type_name(annotation)}, not {value!r}")
    return value
