"""Downloads a data set and prepares it, for data.source=folder.

  python -m jattn data get cifar10
  python -m jattn data get imdb --path /data/imdb
  python -m jattn data get enwik8 --url https://mirror.example/enwik8.zip

An interrupted download is continued by the same command. Every file is checked against its published size and sum.
"""

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from jattn.data import DATASETS
from jattn.data.download import Remote, Report, fetch
from jattn.data.places import data_folder
from jattn.data.published import BY_HAND, PUBLISHED, Published
from jattn.errors import UserError, unknown

INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(PUBLISHED)}")
    parser.add_argument("--path", default="", metavar="FOLDER", help="default: NAME in $JATTN_DATA, or in data")
    parser.add_argument("--url", metavar="URL", help="of a mirror: of the file, or of the folder that has the files")


def run(args: argparse.Namespace) -> int:
    """Gets, checks and unpacks; says how to use it.

    Raises:
      UserError: there is no such data set, it has to be got by hand, or its files cannot be got.
    """
    name = args.name
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if name in BY_HAND:
        raise UserError(f"{name} cannot be got by a command: {BY_HAND[name]}")
    if name not in PUBLISHED:
        print(f"{name} is in the package: --config.data.name={name} needs nothing else")
        return 0
    folder = data_folder(name, args.path)
    try:
        get(PUBLISHED[name], folder, args.url)
    except KeyboardInterrupt:
        print("interrupted: the same command continues", file=sys.stderr)
        return INTERRUPTED
    where = f" --config.data.path={folder}" if args.path else ""
    print(f"{name} is in {folder}: --config.data.name={name} --config.data.source=folder{where}")
    return 0


def get(published: Published, folder: Path, url: str | None = None) -> None:
    """Brings the files of a data set into a folder, as they are read.

    Args:
      published: the files.
      folder: of the data set.
      url: of a mirror: of the file, or of the folder that has them.

    Raises:
      UserError: files cannot be got, or there is no room.
    """
    if published.unpacked and (folder / published.unpacked).is_dir():
        return
    _check_room(published, folder)
    for file in published.files:
        with progress(file) as report:
            fetched = fetch(file, folder, report, url=_address(file, url, len(published.files)))
        what = "got" if fetched else "was there"
        print(f"{file.name}: {what}, {file.size:,} bytes, {file.digest.partition(':')[0].upper()} as published")
    if published.unpack is not None:
        print(f"unpacking into {folder / published.unpacked}")
        published.unpack(folder)


@contextlib.contextmanager
def progress(file: Remote) -> Iterator[Report]:
    """A bar on a terminal, else a line for every tenth of the file, both on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        tenths = [0]

        def say(there: int) -> None:
            if there * 10 // file.size > tenths[0]:
                tenths[0] = there * 10 // file.size
                print(f"{file.name}: {there:,} of {file.size:,} bytes", file=sys.stderr)

        yield say
        return
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(TextColumn("{task.description}"), *columns, console=console) as bar:
        task = bar.add_task(file.name, total=file.size)
        yield lambda there: bar.update(task, completed=there)


def _address(file: Remote, url: str | None, count: int) -> str | None:
    """Of the file at a mirror. What ends with a slash, or has to serve several files, is a folder."""
    if url is None or (count == 1 and not url.endswith("/")):
        return url
    return f"{url.rstrip('/')}/{file.name}"


def _check_room(published: Published, folder: Path) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    needed = sum(file.size - _there(folder / file.path) for file in published.files)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e6:,.0f} MB of room and {needed / 1e6:,.0f} MB are needed: name another folder "
            "with --path"
        )


def _there(target: Path) -> int:
    """Bytes of a file, whole or not, that are there."""
    part = target.with_name(target.name + ".part")
    return max((path.stat().st_size for path in (target, part) if path.is_file()), default=0)
