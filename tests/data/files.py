"""Small data sets on disk, in the formats in which they are published."""

import dataclasses
import hashlib
import io
import pickle
import struct
import tarfile

import numpy as np
from PIL import Image


def pictures(count, num_classes, seed=0, size=32):
    """Random pictures uint8 (count, size, size, 3) and classes int32 (count,)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3), np.uint8), rng.integers(0, num_classes, count, np.int32)


def encoded(image, form="PNG"):
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return buffer.getvalue()


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        self.write(b"T" + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = save_string


def python2_pickle(value):
    """The bytes that Python 2's cPickle would have written, with the names NumPy had then."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def cifar_file(archive, images, labels):
    """The content of one of an archive's files."""
    planes = np.moveaxis(images, -1, 1).reshape(len(images), -1)
    if archive.binary:
        coarse = [labels // 5] if archive.num_classes == 100 else []
        return np.column_stack([*coarse, labels, planes]).astype(np.uint8).tobytes()
    names = [b"coarse_labels", b"fine_labels"] if archive.num_classes == 100 else [b"labels"]
    values = [[int(label) // (5 if name == b"coarse_labels" else 1) for label in labels] for name in names]
    return python2_pickle({b"batch_label": b"made by a test", **dict(zip(names, values, strict=True)), b"data": planes})


def small(archive, count):
    """The archive with so many pictures in each file."""
    parts = {part: dict.fromkeys(files, count) for part, files in archive.parts.items()}
    return dataclasses.replace(archive, parts=parts)


def write_cifar(path, archive, packed):
    """Writes the archive below a folder: returns it as it would then be published, and its pictures and labels."""
    contents, parts = {}, {}
    for seed, (part, files) in enumerate(archive.parts.items()):
        images, labels = pictures(sum(files.values()), archive.num_classes, seed)
        parts[part] = images, labels
        start = 0
        for name, count in files.items():
            contents[name] = cifar_file(archive, images[start : start + count], labels[start : start + count])
            start += count
    if not packed:
        (path / archive.folder).mkdir(parents=True)
        for name, content in contents.items():
            (path / archive.folder / name).write_bytes(content)
        return archive, parts
    path.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path / archive.file, "w:gz", compresslevel=1) as tar:
        for name, content in {**contents, "readme.html": b"a page"}.items():
            member = tarfile.TarInfo(f"{archive.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    packed_bytes = (path / archive.file).read_bytes()
    md5 = hashlib.md5(packed_bytes, usedforsecurity=False).hexdigest()
    return dataclasses.replace(archive, size=len(packed_bytes), md5=md5), parts


def write_parquet(file, images, labels, image="image", label="label", num_classes=10):
    """Writes PNG pictures and classes as the hub's parquet files have them. `images` may be encoded already."""
    import datasets

    rows = [x if isinstance(x, bytes) else encoded(x) for x in images]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(num_classes=num_classes)})
    values = {image: [{"bytes": row, "path": None} for row in rows], label: [int(x) for x in labels]}
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(values, features=features).to_parquet(file)


def write_prepared(path, name, parts, size=None, num_classes=10, file_format="array_record"):
    """Prepares pictures (PNG, or encoded already) by TFDS itself; returns the folder of the version."""
    import tensorflow_datasets as tfds

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            image = tfds.features.Image(shape=(size, size, 3))
            features = {"image": image, "label": tfds.features.ClassLabel(num_classes=num_classes)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {part: self._generate_examples(*rows) for part, rows in parts.items()}

        def _generate_examples(self, images, labels):
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                content = image if isinstance(image, bytes) else encoded(image)
                yield number, {"image": io.BytesIO(content), "label": int(label)}

    Made.name = name
    tfds.disable_progress_bar()
    Made(data_dir=str(path), file_format=file_format).download_and_prepare()
    return path / name / "3.0.2"


def write_classes(path, counts, seed=0, form="PNG"):
    """Writes `path/class/number.png`, so many random pictures of different sizes for each class."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for number in range(count):
            height, width = rng.integers(8, 14, 2)
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            (path / name / f"{number}.{form.lower()}").write_bytes(encoded(image, form))
