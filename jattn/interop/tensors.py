"""Reading safetensors, and saying which of the expected tensors are missing and which are too many."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import safetensors
from safetensors.numpy import load_file

from jattn.errors import UserError
from jattn.types import Array

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""What a folder has in Hugging Face's layout: all tensors in one file, or the names of several files."""

Tensors = Mapping[str, Array]
"""Float32 arrays under the names they have in the file."""


def find(path: str) -> Path:
    """The folder or file of that path, or among the downloads of the Hugging Face hub. Nothing is downloaded.

    Raises:
      UserError: there is none; says how to get it.
    """
    place = Path(path).expanduser()
    if place.exists():
        return place.absolute()
    if path.count("/") == 1 and not path.startswith((".", "/", "~")) and not place.suffix:
        from huggingface_hub import constants, errors, snapshot_download

        try:
            return Path(snapshot_download(path, local_files_only=True))
        except (errors.LocalEntryNotFoundError, errors.HFValidationError):
            raise UserError(
                f"{path} is neither a file or folder nor among the downloads of the Hugging Face hub (looked in "
                f"{constants.HF_HUB_CACHE}): get it with `hf download {path}`"
            ) from None
    raise UserError(f"{place.absolute()} does not exist: give a .safetensors file, or the folder that has {FILE}")


def settings(place: Path) -> dict:
    """The `config.json` beside the tensors; empty if there is none. Raises UserError if it is no JSON object."""
    file = _folder(place) / "config.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}): get it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} is no JSON object: get it again")
    return found


def read(place: Path) -> dict[str, Array]:
    """All tensors of a .safetensors file, or of a folder in Hugging Face's layout; floats of any kind as float32.

    Raises:
      UserError: there are none, or a file is missing, cut off or damaged.
    """
    tensors: dict[str, Array] = {}
    for file in _files(place):
        try:
            tensors |= {name: jnp.asarray(tensor, jnp.float32) for name, tensor in load_file(file).items()}
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{file} cannot be read as safetensors ({error}): get it again") from None
    return tensors


def check_names(tensors: Tensors, expected: Iterable[str], what: str, place: Path) -> None:
    """Raises UserError unless the tensors are exactly the expected ones."""
    expected = set(expected)
    missing, others = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
    if missing:
        raise UserError(f"{place} is no {what} as jattn knows it: it lacks {_some(missing)}")
    if others:
        raise UserError(f"{place} has what {what} as jattn knows it has no place for: {_some(others)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _folder(place: Path) -> Path:
    return place if place.is_dir() else place.parent


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if (place / FILE).is_file():
        return [place / FILE]
    if not (place / INDEX).is_file():
        raise UserError(f"{place} has neither {FILE} nor {INDEX}: give the folder that has one, or a .safetensors file")
    try:
        names = sorted(set(json.loads((place / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{place / INDEX} has no weight_map: get it again") from None
    return [place / name for name in names]
