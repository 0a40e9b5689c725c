"""Made-up pictures in the files in which data sets come, so that a data pipeline can be measured without any."""

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from jattn.config import DataConfig
from jattn.data import DATASETS
from jattn.data.cifar import Cifar
from jattn.data.cifar_archives import Archive
from jattn.data.image_folder import ImageFolder
from jattn.data.imagenet import ImageNet
from jattn.data.pictures import Pictures
from jattn.errors import UserError
from jattn.literals import parse_options

SIZE = (500, 375)  # pixels of a JPEG, width and height, as many of ImageNet's have
DISTINCT = 50  # JPEGs; files are links to them
PER_CLASS = 20


def made(config: DataConfig, folder: Path) -> DataConfig:
    """The same data, of made-up pictures where they are read from files, which are written into the folder.

    CIFAR has all of its 60,000 pictures, as binary records or as parquet (`source=huggingface`); ImageNet and an image
    folder have JPEGs of 500 x 375 pixels, 20 a class.

    Raises:
      UserError: of this data set and source no files can be made up.
    """
    dataset = DATASETS.get(config.name)
    if dataset is None or not issubclass(dataset, Pictures):
        return config
    folder = folder / f"{config.name}-{config.source}"
    options = config.options
    if issubclass(dataset, Cifar) and config.source == "folder":
        _records(dataset.archives[1], folder)
    elif issubclass(dataset, Cifar) and config.source == "huggingface":
        _parquet(dataset, folder)
    elif config.source == "folder" and dataset in (ImageNet, ImageFolder):
        classes = [f"n{number:08}" for number in range(ImageNet.num_classes if dataset is ImageNet else 10)]
        for part in ("train", "val") if dataset is ImageNet else ("train", "val", "test"):
            _jpegs(folder / part, classes)
        if dataset is ImageNet:
            options = ", ".join(f"{k}={v!r}" for k, v in (parse_options(options) | {"valid_size": PER_CLASS}).items())
    else:
        raise UserError(f"--made makes no files for source {config.source!r} of {config.name}: set data.source=folder")
    return dataclasses.replace(config, path=str(folder), options=options)


def _records(archive: Archive, folder: Path) -> None:
    """The unpacked archive of binary records, of noise."""
    (folder / archive.folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for files in archive.parts.values():
        for file, count in files.items():
            labels = rng.integers(0, archive.num_classes, (count, 1), np.uint8)
            coarse = [labels // 5] if archive.num_classes == 100 else []
            pixels = rng.integers(0, 256, (count, 3 * 32 * 32), np.uint8)
            (folder / archive.folder / file).write_bytes(np.hstack([*coarse, labels, pixels]).tobytes())


def _parquet(dataset: type[Cifar], folder: Path) -> None:
    """Parquet files of PNG pictures of noise."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, files in dataset.archives[0].parts.items():
        count = sum(files.values())
        pictures = [{"bytes": _encoded(rng.integers(0, 256, (32, 32, 3), np.uint8), "PNG")} for _ in range(count)]
        labels = rng.integers(0, dataset.num_classes, count)
        pq.write_table(pa.table({"img": pictures, dataset.label: labels}), folder / f"{part}.parquet")


def _jpegs(folder: Path, classes: list[str]) -> None:
    """A folder for each class, with links to the pictures in a folder beside."""
    sources = folder.parent / "pictures"
    sources.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    files = [sources / f"{number}.jpg" for number in range(DISTINCT)]
    for file in files:
        if not file.exists():
            # Noise of sixteen pixels' width on noise of one: about as many bytes as a photograph.
            coarse = rng.integers(0, 256, (SIZE[1] // 16 + 1, SIZE[0] // 16 + 1, 3), np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC), np.int16)
            file.write_bytes(_encoded((smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)))
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            os.link(files[(place * PER_CLASS + number) % DISTINCT], folder / name / f"{number}.jpg")


def _encoded(image: np.ndarray, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return buffer.getvalue()
