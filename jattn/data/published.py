"""Where data sets are published: what `python -m jattn data get` gets, and what has to be got by hand.

Sums of CIFAR are its authors'; of IMDB and enwik8 those that TensorFlow Datasets, torchtext and others check; of
WikiText the Hugging Face hub's own (the ids of its large files at the revision below).
"""

import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jattn.data import cifar_archives
from jattn.data.download import Remote
from jattn.data.text import enwik8, imdb, wikitext
from jattn.errors import UserError


@dataclass(frozen=True)
class Published:
    """The files of a data set.

    Attributes:
      files: to be got.
      unpack: makes of them what is read; None = they are read as they are.
      unpacked: the folder that `unpack` makes.
    """

    files: tuple[Remote, ...]
    unpack: Callable[[Path], None] | None = None
    unpacked: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def unpack_imdb(folder: Path) -> None:
    """Unpacks the reviews with a sentiment (50,000 small files) of the archive in the folder.

    Raises:
      UserError: the archive is damaged, or there is no room.
    """
    archive, part, target = folder / IMDB_ARCHIVE, folder / "aclImdb.part", folder / "aclImdb"
    shutil.rmtree(part, ignore_errors=True)
    try:
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                pieces = member.name.split("/")
                if member.isfile() and len(pieces) == 4 and pieces[2] in ("pos", "neg"):
                    members.extract(member, part, filter="data")
        (part / "aclImdb").rename(target)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{archive} cannot be unpacked into {target} ({error}): make room, or get it again") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _cifar(archive: cifar_archives.Archive) -> Published:
    return Published((Remote(archive.file, archive.url, archive.size, f"md5:{archive.md5}"),))


def _wikitext(number: int, *train: tuple[str, int, str]) -> Published:
    """Train files are named with size and SHA-256; both sizes have the same articles for validation and testing."""
    held_out = (
        (
            "validation-00000-of-00001.parquet",
            657_209,
            "204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c",
        ),
        ("test-00000-of-00001.parquet", 732_610, "5f1bea067869d04849c0f975a2b29c4ff47d867f484f5010ea5e861eab246d91"),
    )
    version = f"wikitext-{number}-raw-v1"
    site = f"{wikitext.URL}/resolve/b08601e04326c79dfdd32d625aee71d232d685c3/{version}"
    return Published(
        tuple(
            Remote(f"{version}/{name}", f"{site}/{name}", size, f"sha256:{digest}")
            for name, size, digest in (*train, *held_out)
        )
    )


IMDB_ARCHIVE = "aclImdb_v1.tar.gz"

PUBLISHED: dict[str, Published] = {
    "cifar10": _cifar(cifar_archives.CIFAR10[0]),
    "cifar100": _cifar(cifar_archives.CIFAR100[0]),
    "wikitext2": _wikitext(
        2,
        (
            "train-00000-of-00001.parquet",
            6_357_543,
            "e83889baabc497075506f91975be5fac0d45c5290b6b20582c8cd1e853d0c9f7",
        ),
    ),
    "wikitext103": _wikitext(
        103,
        (
            "train-00000-of-00002.parquet",
            156_987_808,
            "74da360f23826045b3e6ac6375411fdb15f003030aa74f2596ed08b857cb9212",
        ),
        (
            "train-00001-of-00002.parquet",
            157_088_770,
            "ba090ac30dbf5461e8dcbdd1a1b8e6f3cf9c2c756d64f0c1220450acd514f720",
        ),
    ),
    "enwik8": Published(
        (
            Remote(
                "enwik8.zip",
                enwik8.URL,
                36_445_475,
                "sha256:547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
            ),
        )
    ),
    "imdb": Published(
        (Remote(IMDB_ARCHIVE, imdb.URL, 84_125_825, "md5:7c2ac02c03563afcf9b574c7e56c153a"),),
        unpack=unpack_imdb,
        unpacked="aclImdb",
    ),
}
"""Data sets that anybody may download."""

BY_HAND: dict[str, str] = {
    "imagenet": "register at https://image-net.org/download and accept its terms, then put one folder of pictures for "
    "each class into train/ and val/; or, with an account that has accepted them, `hf download ILSVRC/imagenet-1k "
    "--repo-type dataset` and data.source=huggingface",
    "image_folder": "put your pictures into one folder for each class and name the folder above them with data.path",
    "text": "name your text file, or your folder of text files, with data.path",
}
"""Data sets that have to be got by hand, and how."""
