"""Any text: a file, a folder of files, a data set of the Hugging Face hub with a column of text."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jattn.data.options import check_range
from jattn.data.places import data_folder, hub_folder
from jattn.data.text.corpora import TextCorpus
from jattn.data.text.files import File, by_split, find, joined
from jattn.errors import UserError

_HUB_SUFFIXES = (".parquet", ".txt")  # others of the hub's files are about the data


@dataclass(frozen=True)
class TextFiles(TextCorpus):
    """Files, or rows of parquet files, joined in the order of their names.

    Where names of files or folders say train, valid (validation, val, dev) or test, these are the splits, and files
    that say nothing are left out. Otherwise the text is cut where lines end.
    """

    pattern: str = "**/*"  # of the files in the folder that are read
    column: str = "text"  # of parquet files
    by_name: bool = True  # False: the text is cut, whatever the files are called
    valid_share: float = 0.05  # of a text that is cut: bytes before the last `test_share`
    test_share: float = 0.05

    def __post_init__(self):
        check_range(self, "valid_share", 0, 1)
        check_range(self, "test_share", 0, 1 - self.valid_share)
        super().__post_init__()

    @property
    def label(self) -> str:
        """The name of the file or folder."""
        return f"text {self.path or self.place.name}"

    @cached_property
    def place(self) -> Path:
        """The file or folder."""
        if self.source == "huggingface":
            return hub_folder("the text", self.path, self.pattern)
        return data_folder("text", self.path)

    def files(self) -> list[File]:
        """The files of all splits."""
        return self._files if self._parts is None else [file for split in self.splits for file in self._parts[split]]

    def pieces(self, split: str) -> Iterator[bytes]:
        """Lines of the files of a split, or of a part of all files."""
        if self._parts is not None:
            yield from self._joined(self._parts[split])
            return
        start, stop = self._bounds[self.splits.index(split)], self._bounds[self.splits.index(split) + 1]
        offset = 0
        for piece in self._joined(self._files):
            if start <= offset < stop:
                yield piece
            offset += len(piece)

    def _joined(self, files: list[File]) -> Iterator[bytes]:
        return joined(files, text=self.recipe.reads_text, column=self.column)

    @cached_property
    def _files(self) -> list[File]:
        """All files, whatever their split."""
        if self.place.is_file():
            return [File(self.place)]
        files = find(self.place, self.pattern)
        if self.source == "huggingface":
            files = [file for file in files if file.path.suffix in _HUB_SUFFIXES]
        if not files:
            what = "has no such files" if self.place.is_dir() else "does not exist"
            raise UserError(
                f"no text: {self.place} {what} (looked for {self.pattern}); give a text file or a folder of text "
                "files as data.path, and which of them as option pattern"
            )
        return files

    @cached_property
    def _parts(self) -> dict[str, list[File]] | None:
        """The files of each split; None if the text is to be cut."""
        if not self.by_name or self.place.is_file():
            return None
        parts = by_split(self.place, self._files)
        without = [split for split in self.splits if split not in parts]
        if parts and without:
            raise UserError(
                f"files of {self.place} are named for {', '.join(parts)} but none for {', '.join(without)}: "
                "add them, or cut one text into splits with option by_name=False"
            )
        return parts or None

    @cached_property
    def _bounds(self) -> list[float | int]:
        """Where splits begin and end, in bytes of a text that is cut."""
        size = sum(map(len, self._joined(self._files)))
        held_out = self.valid_share + self.test_share
        return [0, size * (1 - held_out), size * (1 - self.test_share), size]
