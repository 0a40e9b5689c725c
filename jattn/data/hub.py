"""Parquet files of pictures, as data sets on the Hugging Face hub have them, from a folder or the hub's cache.

Nothing is downloaded: a hub that cannot be reached would be waited for.
"""

import re
from pathlib import Path

import numpy as np

from jattn.data.decoding import Encoded
from jattn.errors import UserError

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


class Rows(Encoded):
    """Pictures in a table that is mapped into memory."""

    def __init__(self, table, place: str, image: str, label: str):
        self._table, self.place, self._image, self._label = table, place, image, label

    def __len__(self) -> int:
        return len(self._table)

    def fetch(self, index: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        """The pictures `index` (B,) as they are encoded, and their classes."""
        rows = self._table[index.tolist()]
        return [row["bytes"] or b"" for row in rows[self._image]], np.array(rows[self._label], np.int32)

    def name(self, place: int) -> str:
        """What to call one of them in a message."""
        return f"row {place} of {self.place}"


def files(path: str, hub_name: str, part: str) -> list[Path]:
    """The parquet files of one part, in their order. Arguments and errors are those of `read`."""
    return _files(_folder(path, hub_name), part, _named(path, hub_name))


def read(path: str, hub_name: str, part: str, image: str, label: str) -> Rows:
    """One part of a data set.

    `datasets` writes the files once into its cache in a form that can be mapped into memory, as large as they are.

    Args:
      path: a folder of parquet files, a data set's name on the hub, or "" for `hub_name`.
      hub_name: the name under which the data set is found on the hub.
      part: `train`, `validation` or `test`, with which the files' names, or their folder's, begin or end.
      image, label: columns.

    Raises:
      UserError: the folder, a file or a column is not there, or a file is damaged.
    """
    folder = _folder(path, hub_name)
    shards = _files(folder, part, _named(path, hub_name))
    # Imported where they are used: together they take longer than all the rest of jattn.
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in shards:
        try:
            columns = pq.read_schema(file).names
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{file} is cut off or damaged ({error}): get it again") from None
        if missing := [column for column in (image, label) if column not in columns]:
            raise UserError(f"{file} has no column {missing[0]!r}, it has {', '.join(columns)}")
    shown = datasets.utils.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset("parquet", data_files={part: [str(shard) for shard in shards]}, split=part)
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{folder} cannot be read ({error.__cause__ or error}): get it again") from None
    finally:
        if shown:
            datasets.enable_progress_bars()
    table = table.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    return Rows(table, str(folder), image, label)


def _folder(path: str, hub_name: str) -> Path:
    if path and Path(path).is_dir():
        return Path(path)
    name = path or hub_name
    if name.count("/") == 1 and not name.startswith((".", "/")):
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, ValueError):
            raise UserError(
                f"{name} is neither a folder nor in the hub's cache {constants.HF_HUB_CACHE}: get it by "
                f"`hf download {name} --repo-type dataset`"
            ) from None
    raise UserError(
        f"folder {Path(name).absolute()} does not exist: get the files by "
        f"`hf download {hub_name} --repo-type dataset --local-dir {name}`"
    )


def _named(path: str, hub_name: str) -> str:
    """The data set's name on the hub: `path`, unless it is a folder."""
    return path if "/" in path and not Path(path).exists() else hub_name


def _files(folder: Path, part: str, hub_name: str) -> list[Path]:
    """The parquet files of a part, in their order, none missing."""
    again = f"`hf download {hub_name} --repo-type dataset --local-dir {folder}`"

    def belongs(file: Path) -> bool:
        return re.match(rf"{part}\b", file.name) is not None or re.search(rf"\b{part}$", file.parent.name) is not None

    files = sorted(file for file in folder.rglob("*.parquet") if belongs(file))
    if not files:
        raise UserError(f"{folder} holds no parquet files of part {part!r} ({part}-*.parquet): get them by {again}")
    numbered = [match for file in files if (match := _SHARD.search(file.name))]
    if numbered:
        total = int(numbered[0][2])
        if missing := sorted(set(range(total)) - {int(match[1]) for match in numbered}):
            raise UserError(f"{folder} lacks file {missing[0]} of the {total} of part {part!r}: get it by {again}")
    return files
