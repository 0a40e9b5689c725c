"""Says which data sets are on this machine, where, and how large, and how to get the others.

python -m jattn data list
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from jattn.data import DATASETS, cifar, imagenet
from jattn.data.places import data_folder, get_command
from jattn.data.published import BY_HAND, PUBLISHED
from jattn.data.text import imdb, wikitext

HUB: dict[str, str] = {
    "cifar10": cifar.CIFAR10.hub_name,
    "cifar100": cifar.CIFAR100.hub_name,
    "imagenet": imagenet.HUB_NAME,
    "wikitext2": wikitext.REPOSITORY,
    "wikitext103": wikitext.REPOSITORY,
    "imdb": imdb.REPOSITORY,
}
"""Names on the Hugging Face hub."""

TFDS: dict[str, str] = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet": imagenet.TFDS_NAME}
"""Names in TensorFlow Datasets."""

MOST_FILES = 200_000
"""No more are counted: a folder of ImageNet has 1.3 million."""


class Found(NamedTuple):
    """A data set at one place: data.source, what is there, where, and its size in words."""

    name: str
    source: str
    state: str
    where: str
    size: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(args: argparse.Namespace) -> None:
    """Prints a table."""
    table = Table()
    for column in ("data set", "source", "state", "where", "size"):
        table.add_column(column, overflow="fold")  # paths and commands are to be copied: never cut
    for name in DATASETS:
        for row in found(name):
            table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # a file has no width
    console.print(table)


def found(name: str) -> list[Found]:
    """Where a data set lies on this machine; one row that says how to get it if it does not."""
    if DATASETS[name].sources == ("embedded",):
        return [Found(name, "embedded", "in the package", "", "")]
    rows = []
    folder = data_folder(name)
    if folder.is_dir() and any(folder.iterdir()):
        rows.append(Found(name, "folder", _state(name, folder), str(folder), size_of(folder)))
    if name in HUB:
        from huggingface_hub import constants

        place = Path(constants.HF_HUB_CACHE) / f"datasets--{HUB[name].replace('/', '--')}"
        if place.is_dir():
            rows.append(Found(name, "huggingface", "downloads", str(place), size_of(place)))
    if name in TFDS:
        place = Path("~/tensorflow_datasets").expanduser() / TFDS[name]
        if place.is_dir():
            rows.append(Found(name, "tfds", "prepared", str(place), size_of(place)))
    if rows:
        return rows
    if name in BY_HAND:
        return [Found(name, "", "not there", f"{get_command(name)} says how to get it", "")]
    return [Found(name, "", "not there", get_command(name), f"{PUBLISHED[name].size / 1e6:,.0f} MB")]


def _state(name: str, folder: Path) -> str:
    """Whether the files that `data get` gets are there; others may be read too."""
    if name not in PUBLISHED:
        return "there"
    published = PUBLISHED[name]
    if published.unpacked and (folder / published.unpacked).is_dir():
        return "there"
    sizes = {file: folder / file.path for file in published.files}
    if all(path.is_file() and path.stat().st_size == file.size for file, path in sizes.items()):
        return "to be unpacked: " + get_command(name) if published.unpack else "there"
    parts = [path.with_name(path.name + ".part") for path in sizes.values()]
    there = sum(path.stat().st_size for path in (*sizes.values(), *parts) if path.is_file())
    return f"{there / published.size:.0%} there: {get_command(name)}" if there else "other files"


def size_of(folder: Path) -> str:
    """Bytes of all files in a folder, in words."""
    count = total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            path = os.path.join(place, file)
            total += 0 if os.path.islink(path) else os.stat(path).st_size
            count += 1
            if count >= MOST_FILES:
                return f"more than {count:,} files"
    return f"{total / 1e6:,.1f} MB"
