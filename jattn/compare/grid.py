"""The cells of a comparison: every combination of the axes' values, each a config that differs in nothing else."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jattn import cli, config_json
from jattn.config import Config
from jattn.errors import UserError
from jattn.literals import parse_calls

ARGUMENT = "arg"
"""The axis that varies the argument after the colon of the config file."""

MECHANISM = "model.attention.name"
"""The axis whose values may carry options."""

_OPTIONS = "model.attention.options"
LONGEST = 120
"""Letters of a folder's name; of a longer one so many, and a few that tell it from others. File systems end at 255."""

SAME_DATA = ("data.name", "data.source", "data.path", "data.tokenizer", "data.options", "validation.split")
"""Options that decide which examples there are, and on which the best checkpoint is chosen."""


@dataclass(frozen=True)
class Axis:
    """An option that varies, and its values as they are typed."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One combination of values.

    Attributes:
      name: for tables: the value, or "attention=neural, width=64" with several axes.
      settings: value of each axis.
      argument: of train.py's --config.
      flags: further flags of train.py, in the order in which they act.
      config: what these give, with seed 0.
    """

    name: str
    settings: dict[str, str]
    argument: str
    flags: tuple[str, ...]
    config: Config

    def with_flags(self, *flags: str) -> "Cell":
        """This cell with flags that act after its own."""
        flags = (*self.flags, *flags)
        return dataclasses.replace(self, flags=flags, config=configured(self.argument, flags))

    @property
    def folder(self) -> str:
        """Name of the folder of its runs: the cell's, without what a shell would need quotes for."""
        name = re.sub(r"[^\w.=+-]+", "_", self.name).strip("_.") or "_"
        if len(name) <= LONGEST:
            return name
        return f"{name[:LONGEST]}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


def parse_axis(text: str) -> Axis:
    """An axis from `NAME=VALUE,VALUE,...`.

    Commas in brackets or quotes do not separate; where there is a semicolon outside of them, semicolons separate and
    commas do not.

    >>> parse_axis("model.attention.name=softmax,local(window_size=4, autopad=True)").values
    ('softmax', 'local(window_size=4, autopad=True)')
    >>> parse_axis("arg=super,keras; softmax,keras").values
    ('super,keras', 'softmax,keras')

    Raises:
      UserError: it is not of this form, or a value occurs twice.
    """
    name, equals, rest = text.partition("=")
    name = name.strip().removeprefix("--").removeprefix("config.")
    if not equals or not name or not rest.strip():
        raise UserError(f"--axis {text}: write NAME=VALUE,VALUE, such as --axis model.attention.name=softmax,neural")
    values = _split(rest)
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"--axis {name} has the value {value!r} twice: give each value once")
    if name == "seed":
        raise UserError("seeds are no axis: every cell runs with the same ones, --seeds says how many")
    return Axis(name, tuple(values))


def cells(argument: str, axes: Sequence[Axis], overrides: Sequence[str]) -> list[Cell]:
    """Every combination of the axes' values, the last axis fastest.

    Args:
      argument: of train.py's --config: a file, with :argument if it takes one. The axis `arg` adds to that.
      axes: what varies.
      overrides: `--config.NAME=VALUE` flags of all cells.

    Raises:
      UserError: an option or a value that does not exist, or cells that do not compare (see `check_comparable`).
    """
    names = [axis.name for axis in axes]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--axis {name} occurs twice: write all values in one, --axis {name}=VALUE,VALUE")
    made = [_cell(argument, dict(zip(names, values, strict=True)), overrides) for values in _product(axes)]
    check_comparable(made)
    return made


def check_comparable(made: Sequence[Cell]) -> None:
    """Raises UserError where cells have other data or are the same, or where one folder would hold two of them."""
    for one, cell in itertools.combinations(made, 2):
        if one.config == cell.config:
            raise UserError(f"{one.name!r} and {cell.name!r} are the same config: give it once")
        if one.folder == cell.folder:
            raise UserError(
                f"{one.name!r} and {cell.name!r} would share the folder {one.folder!r}: give values whose letters and "
                "digits differ"
            )
    check_equal(made, SAME_DATA)


def check_equal(made: Sequence[Cell], options: Sequence[str]) -> None:
    """Raises UserError where cells differ in options, by their dotted names, without which they do not compare."""
    first = made[0]
    expected = config_json.flatten(first.config)
    for cell in made[1:]:
        found = config_json.flatten(cell.config)
        for option in options:
            if found[option] != expected[option]:
                raise UserError(
                    f"{first.name!r} and {cell.name!r} differ in {option} ({expected[option]!r} and "
                    f"{found[option]!r}), so their results do not compare: run a comparison for each"
                )


def configured(argument: str, flags: Sequence[str]) -> Config:
    """The config that train.py would run."""
    return cli.parse_train(["compare", f"--config={argument}", *flags]).config


def _product(axes: Sequence[Axis]) -> itertools.product:
    return itertools.product(*(axis.values for axis in axes))


def _cell(argument: str, settings: dict[str, str], overrides: Sequence[str]) -> Cell:
    if settings.get(ARGUMENT):
        given = argument.partition(":")[2]
        argument = f"{argument.partition(':')[0]}:{','.join(filter(None, (given, settings[ARGUMENT])))}"
    flags = list(overrides)
    for name, value in settings.items():
        if name == MECHANISM:
            flags += _mechanism(value, argument, overrides)
        elif name != ARGUMENT:
            flags.append(f"--config.{name}={value}")
    config = configured(argument, flags)
    return Cell(_named(settings, argument), settings, argument, tuple(flags), config)


def _mechanism(value: str, argument: str, overrides: Sequence[str]) -> list[str]:
    """Flags for "kvt(topk=8)". Options that the config has belong to its own mechanism, and stay with it only."""
    calls = parse_calls(value)
    if len(calls) != 1:
        raise UserError(f"--axis {MECHANISM}: {value!r} is not one mechanism: write one such as 'kvt(topk=8)'")
    ((name, options),) = calls
    flags = [f"--config.{MECHANISM}={name}"]
    if options or configured(argument, overrides).model.attention.name != name:
        text = ", ".join(f"{option}={literal!r}" for option, literal in options.items())
        flags.append(f"--config.{_OPTIONS}={text}")
    return flags


def _named(settings: dict[str, str], argument: str) -> str:
    if not settings:
        return cli.default_workdir(argument).name
    if len(settings) == 1:
        return next(iter(settings.values())) or "(none)"
    last = [name.removesuffix(".name").rpartition(".")[2] for name in settings]
    short = [word if last.count(word) == 1 else name for word, name in zip(last, settings, strict=True)]
    return ", ".join(f"{name}={value}" for name, value in zip(short, settings.values(), strict=True))


def _split(text: str) -> list[str]:
    """Values between semicolons outside of brackets and quotes, or commas if there is no such semicolon."""
    at: dict[str, list[int]] = {",": [], ";": []}
    depth, quote = 0, ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter in at and depth == 0:
            at[letter].append(place)
    cuts = at[";"] or at[","]
    parts = [text[a:b].strip() for a, b in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)], strict=True)]
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts
