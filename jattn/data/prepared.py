"""Pictures that TensorFlow Datasets has prepared (file format array_record), read without TensorFlow."""

from pathlib import Path

import numpy as np

from jattn.data.decoding import Encoded
from jattn.errors import UserError


class Rows(Encoded):
    """Pictures in array_record files, read when they are asked for."""

    def __init__(self, source, place: str, image: str, label: str):
        self._source, self.place, self._image, self._label = source, place, image, label

    def __len__(self) -> int:
        return len(self._source)

    def fetch(self, index: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        """The pictures `index` (B,) as they are encoded, and their classes."""
        rows = self._source.__getitems__(index.tolist())
        return [row[self._image] for row in rows], np.array([row[self._label] for row in rows], np.int32)

    def name(self, place: int) -> str:
        """What to call one of them in a message."""
        return f"record {place} of {self.place}"


def files(path: str, name: str, part: str) -> list[Path]:
    """The files of one part, and what describes them. Arguments and errors are those of `read`."""
    folder = _folder(Path(path or "~/tensorflow_datasets").expanduser(), name)
    return [folder / "dataset_info.json", *sorted(folder.glob(f"*-{part}.*"))]


def read(path: str, name: str, part: str, image: str, label: str) -> Rows:
    """One part of a prepared data set.

    Args:
      path: TFDS' data folder, the data set's folder in it, or a version's; "" = `~/tensorflow_datasets`.
      name: of the data set in TFDS.
      part: `train`, `validation` or `test`.
      image, label: features.

    Raises:
      UserError: nothing prepared is there, it has another format, or lacks the part, a feature or a file.
    """
    folder = _folder(Path(path or "~/tensorflow_datasets").expanduser(), name)
    # Imported where it is used: not every run should wait for it.
    import tensorflow_datasets as tfds

    prepare = f"`tfds build {name} --file_format=array_record` on a machine with TensorFlow"
    builder = tfds.builder_from_directory(folder)
    info = builder.info
    if info.file_format is None or info.file_format.value != "array_record":
        found = info.file_format and info.file_format.value
        raise UserError(f"{folder} was prepared as {found}, which only TensorFlow reads: prepare it by {prepare}")
    if part not in info.splits:
        raise UserError(f"{folder} has no part {part!r}, it has {', '.join(info.splits)}")
    if missing := [feature for feature in (image, label) if feature not in info.features]:
        raise UserError(f"{folder} has no feature {missing[0]!r}, it has {', '.join(sorted(info.features))}")
    if missing := [file for file in info.splits[part].filepaths if not Path(file).is_file()]:
        raise UserError(f"{missing[0]} is missing: copy it, or prepare {name} again by {prepare}")
    rows = Rows(builder.as_data_source(part, decoders={image: tfds.decode.SkipDecoding()}), str(folder), image, label)
    # TFDS believes its list of files: a file that was cut off would show when its records are asked for.
    for end, file in zip(np.cumsum(info.splits[part].shard_lengths), info.splits[part].filepaths, strict=True):
        try:
            rows.fetch(end[None] - 1)
        except Exception as error:  # array_record raises what its C++ does
            raise UserError(f"{file} is cut off or damaged ({error}): prepare {name} again by {prepare}") from None
    return rows


def _folder(path: Path, name: str) -> Path:
    """The folder of the newest version."""
    for place in (path, path / name):
        if (place / "dataset_info.json").is_file():
            return place
        versions = sorted(place.glob("*.*.*/dataset_info.json"), key=lambda file: _version(file.parent.name))
        if versions:
            return versions[-1].parent
    raise UserError(
        f"{path.absolute()} holds no prepared {name} ({name}/<version>/dataset_info.json): prepare it by "
        f"`tfds build {name} --file_format=array_record` on a machine with TensorFlow, and copy the folder here"
    )


def _version(name: str) -> list[int]:
    return [int(number) if number.isdigit() else -1 for number in name.split(".")]
