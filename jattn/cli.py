"""The command lines of train.py and eval.py: flags in, one sentence and an exit code out.

Exit codes: 0 done, or stopped by SIGTERM after saving; 2 a mistake of the user's; 3 training did not stay
finite; 130 stopped by Ctrl-C; 141 nobody reads the output any more.
"""

import os
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from jattn import config_json
from jattn.config import Config
from jattn.errors import UserError, unknown
from jattn.literals import parse_checkpoint
from jattn.process import prepare_process

USER_ERROR, NOT_FINITE, INTERRUPTED, OUTPUT_CLOSED = 2, 3, 130, 141

TRAIN_HELP = """\
Trains a model, or continues an interrupted run; everything it writes is in one folder.

  python train.py --config=configs/digits_vit.py
  python train.py --config=configs/digits_vit.py:smoke --workdir=runs/try
  python train.py --config=configs/digits_vit.py --config.model.depth=6 --config.optim.learning_rate=3e-4
  python train.py --config=configs/python_docs_lm.py --config.model.layers='0:softmax(num_key_heads=1)'

Any option of jattn/config.py can be set with --config.NAME=VALUE; None unsets one that may be unset.
The same command continues a run that was stopped (Ctrl-C, SIGTERM, a crash), bit for bit.
"""

EVAL_HELP = """\
Evaluates a run: prints a table and writes results.json into the run's folder.

  python eval.py --workdir=runs/digits_vit
  python eval.py --workdir=runs/digits_vit --split=valid --checkpoint=newest
  python eval.py --workdir=runs/python_docs_lm --window=256 --stride=64
"""


class Command(NamedTuple):
    """What `train.py` was asked to do."""

    config: Config
    workdir: Path
    restart: bool
    allow_config_change: bool
    distributed: bool = False


def train_main(argv: Sequence[str]) -> int:
    """Runs train.py with `sys.argv`; returns the exit code."""
    return exit_code(lambda: _train(argv))


def eval_main(argv: Sequence[str]) -> int:
    """Runs eval.py with `sys.argv`; returns the exit code."""
    return exit_code(lambda: _evaluate(argv))


def parse_train(argv: Sequence[str]) -> Command | None:
    """The command in `sys.argv`, or None if it asks for help, which has then been printed.

    Raises:
      UserError: a flag, a config file, a config option or its value is unknown or wrong.
    """
    values = flags.FlagValues()
    overrides, nones = _overrides(argv[1:])
    line = [argv[0], *_config_first(overrides)]
    config_flags.DEFINE_config_file(
        "config", None, "experiment: path of a Python file, with :argument if it takes one",
        flag_values=values, sys_argv=line,
    )  # fmt: skip
    flags.DEFINE_string("workdir", None, "folder of the run; default runs/<config>[-<argument>]", flag_values=values)
    flags.DEFINE_bool("restart", False, "begin anew; an old run is kept under another name", flag_values=values)
    flags.DEFINE_bool("allow_config_change", False, "continue a run in spite of another config", flag_values=values)
    flags.DEFINE_bool(
        "distributed", False, "this is one of several processes that train together: docs/several_processes.md",
        flag_values=values,
    )  # fmt: skip
    if _wants_help(argv):
        _print_help(TRAIN_HELP, values)
        return None
    place = _config_argument(overrides)
    _check_config_file(place)
    _parse(values, line)
    config = values.config
    if not isinstance(config, Config):
        raise UserError(f"get_config of {place} must return a jattn.config.Config, not {type(config).__name__}")
    _unset(config, nones)
    workdir = Path(values.workdir) if values.workdir is not None else default_workdir(place)
    return Command(config, workdir, values.restart, values.allow_config_change, values.distributed)


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """A config that no file holds, with the options in `--config.NAME=VALUE` flags set.

    Raises:
      UserError: an option or its value is unknown or wrong.
    """
    values = flags.FlagValues()
    line, nones = _overrides(overrides)
    config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=["jattn", *line])
    _parse(values, ["jattn", *line])
    _unset(values.config, nones)
    return values.config


def default_workdir(config_argument: str) -> Path:
    """Where a run of `--config=configs/x.py:arg` lies.

    >>> default_workdir("configs/digits_vit.py:smoke").as_posix()
    'runs/digits_vit-smoke'
    """
    path, _, argument = config_argument.partition(":")
    suffix = re.sub(r"[^\w.=,+-]+", "_", argument)
    return Path("runs") / (Path(path).stem + (f"-{suffix}" if suffix else ""))


def exit_code(run: Callable[[], int]) -> int:
    """The exit code of a command, whose mistakes of the user's become one sentence."""
    try:
        code = run()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except (
        BrokenPipeError
    ):  # who reads the output, such as `head`, has seen enough; Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED


def _train(argv: Sequence[str]) -> int:
    command = parse_train(argv)
    if command is None:
        return 0
    prepare_process()
    # Not above: jax takes a second to import, which a mistyped flag need not wait for.
    from jattn.training import NonFiniteError, processes, train

    options = command._asdict()
    if options.pop("distributed"):  # before anything asks for devices
        processes.join()
    try:
        train(**options)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_FINITE
    return 0


def _evaluate(argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("split", "test", "train, valid or test", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, newest, or a step", flag_values=values)
    flags.DEFINE_integer("window", None, "text: tokens of a window; default as in training", flag_values=values)
    flags.DEFINE_integer("stride", None, "text: tokens between two windows; default the window", flag_values=values)
    flags.DEFINE_string("average", "tokens", "text: over tokens, each once, or over whole windows", flag_values=values)
    flags.DEFINE_integer("bins", 15, "of the calibration", flag_values=values)
    flags.DEFINE_integer("timed_batches", 10, "batches whose time is measured; 0 = none", flag_values=values)
    flags.DEFINE_bool("pictures", True, "draw calibration and confusion matrix", flag_values=values)
    if _wants_help(argv):
        _print_help(EVAL_HELP, values)
        return 0
    _parse(values, list(argv))
    if values.workdir is None:
        raise UserError("--workdir is missing: give the folder of a run, for example --workdir=runs/digits_vit")
    which = parse_checkpoint(values.checkpoint)
    prepare_process()
    from jattn.evaluation import draw, evaluate, print_table, write_results

    options = {name: values[name].value for name in ("window", "stride", "average", "bins", "timed_batches")}
    results = evaluate(values.workdir, values.split, which, **options)
    written = [write_results(results, values.workdir)]
    if values.pictures:
        written += draw(results, values.workdir)
    print_table(results)
    print(f"written to {', '.join(map(str, written))}")
    return 0


def _overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Checks the names in --config.NAME flags against the options there are.

    Returns:
      The command line with each such flag in the form --config.NAME=VALUE, without those whose value is None;
      and the names of these, since absl's parsers of numbers do not know None.
    """
    known = config_json.field_types(Config)
    line, nones = [], []
    rest = iter(argv)
    for word in rest:
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(=.*)?", word, flags=re.DOTALL)
        if match is None:
            line.append(word)
            continue
        negated, name, value = match.groups()
        if name not in known:
            raise _unknown_option(name, list(known))
        if value is None and known[name] is not bool:
            following = next(rest, None)
            if following is None:
                raise UserError(f"--config.{name} lacks a value: write --config.{name}=VALUE")
            value = f"={following}"
        if value is not None and value[1:].lower() == "none" and _may_be_none(known[name]):
            nones.append(name)
        else:
            nones = [other for other in nones if other != name]
            line.append(f"--{negated or ''}config.{name}{value or ''}")
    return line, nones


def _unset(config: Config, names: Sequence[str]) -> None:
    for name in names:
        *groups, field = name.split(".")
        owner = config
        for group in groups:
            owner = getattr(owner, group)
        setattr(owner, field, None)


def _may_be_none(annotation: Any) -> bool:
    return types.NoneType in typing.get_args(annotation)


def _unknown_option(name: str, known: list[str]) -> UserError:
    """Nearest names first, then those of the same group."""
    group = name
    while group and not any(other.startswith(f"{group}.") for other in known):
        group = group.rpartition(".")[0]
    inside = [other for other in known if other.startswith(f"{group}.")] if group else known
    if group == name:
        return UserError(f"config.{name} is a group of options: set one of {', '.join(inside)}")
    if not group:
        last = name.rpartition(".")[2]
        inside = [other for other in known if "." not in other or other.rpartition(".")[2] == last]
    return unknown("config option", name, inside)


def _config_first(line: list[str]) -> list[str]:
    """ml_collections wants --config before its --config.NAME flags."""
    for place, word in enumerate(line):
        if re.fullmatch(r"--?config=.*", word):
            return [word, *line[:place], *line[place + 1 :]]
        if re.fullmatch(r"--?config", word):
            return [*line[place : place + 2], *line[:place], *line[place + 2 :]]
    return line


def _config_argument(line: list[str]) -> str:
    words = _config_first(line)
    if words and words[0].partition("=")[0] in ("--config", "-config"):
        _, equals, value = words[0].partition("=")
        if equals or len(words) > 1:
            return value if equals else words[1]
    raise UserError(f"--config is missing: give a config file, for example --config={_some_config()}")


def _some_config() -> str:
    return (_configs() or ["configs/digits_vit.py"])[0]


def _configs() -> list[str]:
    return sorted(path.as_posix() for path in Path("configs").glob("*.py") if path.stem != "__init__")


def _check_config_file(argument: str) -> None:
    path = argument.partition(":")[0]
    if not Path(path).is_file():
        known = _configs()
        raise UserError(
            f"there is no config file {path!r}: " + ("choose " + ", ".join(known) if known else "give its path")
        )


def _parse(values: flags.FlagValues, line: list[str]) -> None:
    try:
        extra = values(line)[1:]
    except flags.UnrecognizedFlagError as error:
        raise unknown("flag", f"--{error.flagname}", [f"--{name}" for name in values]) from None
    except flags.IllegalFlagValueError as error:
        raise _illegal_value(error, line) from None
    except flags.Error as error:
        raise UserError(f"{error}: see --help") from None
    except UserError:
        raise
    except Exception as error:  # whatever the code in a config file raises
        raise _broken_config(error) from error
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r}: flags begin with --, see --help")


def _illegal_value(error: flags.IllegalFlagValueError, line: list[str]) -> UserError:
    option = re.match(r"flag --config\.([\w.]+)=", str(error))
    if option is not None:
        name = option[1]
        value = [word.partition("=")[2] for word in line if word.startswith(f"--config.{name}=")][-1]
        expected = config_json.type_name(config_json.field_types(Config)[name])
        return UserError(f"config.{name} must be {expected}, not {value!r}")
    if not str(error).startswith("flag --config="):
        return UserError(f"{error}: see --help")
    chain: list[BaseException] = [error]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(deeper)
    # ml_collections wraps what get_config raised in an error of its class; behind a UserError may be what led to it.
    mistakes = [cause for cause in chain if isinstance(cause, UserError)]
    return mistakes[-1] if mistakes else _broken_config(chain[-1])


def _broken_config(error: BaseException) -> UserError:
    trace = error.__traceback__
    line = None
    while trace is not None:
        line, trace = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_next
    return UserError(f"the config file cannot be used: {type(error).__name__}: {error} ({line})")


def _wants_help(argv: Sequence[str]) -> bool:
    return any(word in ("--help", "-help", "-h", "--helpfull", "-?") for word in argv[1:])


def _print_help(text: str, values: flags.FlagValues) -> None:
    print(text)
    print("Flags:")
    for name in values:
        default = values[name].default
        shown = f" (default {default})" if isinstance(default, str | int) and not isinstance(default, bool) else ""
        print(f"  --{name:<20} {values[name].help}{shown}")
