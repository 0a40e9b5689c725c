"""A run's folder: who may write to it, which config it belongs to, what its user is told.

config.json  metrics.csv  timing.csv  model.txt  log.txt  curves.png  results.json  checkpoints/  tensorboard/,
tokenizer.json (of data with a learned vocabulary), wandb.json and wandb/ (of Weights & Biases), calibration.png and
confusion.png (of eval.py), and damaged/ (checkpoints that failed their checksums).
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

from jattn import config_json
from jattn.config import Config
from jattn.errors import UserError
from jattn.training import processes
from jattn.training.progress import Console

CONFIG = "config.json"
LOCK = ".lock"
LOG = "log.txt"


class Run(NamedTuple):
    """An open run.

    Attributes:
      folder: its absolute path.
      console: whose lines also go to log.txt.
      changes: options in which the config differs from the stored one; empty unless that was allowed. Once
        the run is known to continue, `store_config` makes the new config the stored one.
    """

    folder: Path
    console: Console
    changes: list[str]


@contextlib.contextmanager
def open_run(
    workdir: Path, config: Config, *, restart: bool, allow_config_change: bool, quiet: bool = False
) -> Iterator[Run]:
    """Makes or reopens the folder of a run and keeps others out of it until the context is left.

    Of several processes that train together, the first does; the others get a folder that is deleted afterwards.

    Args:
      workdir: the folder. One that holds a run of the same config continues it.
      config: of the run; stored in the folder of a new one.
      restart: begin anew; an existing run is kept under another name.
      allow_config_change: continue a run in spite of another config.
      quiet: the console writes to log.txt alone.

    Raises:
      UserError: another config, another process in the folder, a folder of something else, or unwritable.
    """
    if not processes.is_first():
        with (
            tempfile.TemporaryDirectory() as own,
            open(os.devnull, "w") as nothing,
            Console(nothing, nothing) as console,
        ):
            yield Run(Path(own), console, [])
        return
    folder = workdir.absolute()
    with explained(folder):
        old = _stored_config(folder)
    changes = [] if old is None or restart else config_json.differences(old, config)
    if changes and not allow_config_change:
        raise UserError(
            f"{folder} holds a run of another config ({'; '.join(changes)}): choose another --workdir, "
            "begin anew with --restart, or continue with --allow_config_change"
        )
    moved = None
    with contextlib.ExitStack() as stack:
        with explained(folder):
            if old is not None and restart:
                with _locked(folder):
                    moved = _move_aside(folder)
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder))
            if old is None or restart:
                store_config(folder, config)
            log = stack.enter_context((folder / LOG).open("a"))
        output = stack.enter_context(open(os.devnull, "w")) if quiet else None
        console = stack.enter_context(Console(log, output))
        if moved is not None:
            console.say(f"the old run has been kept as {moved}")
        yield Run(folder, console, changes)


def read_config(workdir: Path) -> Config:
    """The config of the run in a folder.

    Raises:
      UserError: the folder holds no run, or its config cannot be understood.
    """
    path = workdir / CONFIG
    try:
        return config_json.from_json(path.read_text())
    except FileNotFoundError:
        what = "does not exist" if not workdir.exists() else f"holds no run ({CONFIG} is missing)"
        raise UserError(f"{workdir} {what}: train first, or give the --workdir of a run") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the --workdir of a run") from error


def store_config(folder: Path, config: Config) -> None:
    """Makes `config` the one that the run in the folder belongs to."""
    write_atomically(folder / CONFIG, config_json.to_json(config))


def keep_files(folder: Path, files: Mapping[str, str], *, replace: bool) -> None:
    """Keeps what the weights mean nothing without, such as a tokenizer, beside the run.

    Args:
      folder: of the run.
      files: texts by name.
      replace: whether other texts of these names may be replaced.

    Raises:
      UserError: the run has another text of this name.
    """
    if not replace:
        check_files(folder, files)
    for name, text in files.items():
        write_atomically(folder / name, text)


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Raises UserError if the run keeps another text under one of these names."""
    for name, text in files.items():
        path = folder / name
        if path.exists() and path.read_text(encoding="utf-8") != text:
            kept, given = (
                hashlib.sha256(t.encode()).hexdigest()[:12] for t in (path.read_text(encoding="utf-8"), text)
            )
            raise UserError(
                f"{path} (SHA-256 {kept}...) is not what the data now gives ({given}...): the text has changed since "
                "this run began; restore it, or begin anew with --restart"
            )


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file so that no reader, and no crash, sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _stored_config(folder: Path) -> Config | None:
    """The config of the run in the folder; None where a run can begin."""
    if (folder / CONFIG).exists():
        return read_config(folder)
    if folder.is_dir():
        # A process that died while it began a run may have left these.
        foreign = sorted({entry.name for entry in folder.iterdir()} - {LOCK, f"{CONFIG}.part"})
        if foreign:
            raise UserError(
                f"{folder} holds no run but other files ({', '.join(foreign[:3])}): "
                "choose another --workdir, or empty it"
            )
    return None


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns what the operating system refuses within the context into a UserError about the folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write to {folder} ({reason}): choose another --workdir") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[TextIO]:
    """Holds the folder for this process; the system lets go of it when the process ends, however it ends."""
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {folder}: wait for it, or choose another --workdir"
            ) from None
        yield file


def _move_aside(folder: Path) -> Path:
    number = 1
    while (place := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    os.rename(folder, place)
    return place
