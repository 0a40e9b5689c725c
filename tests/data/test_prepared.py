"""Pictures prepared by TFDS itself, here and without TensorFlow, and what may be wrong with them."""

import json
import shutil

import numpy as np
import pytest

from jattn.data import prepared
from jattn.errors import UserError
from tests.data.files import encoded, pictures, write_prepared

IMAGES, LABELS = pictures(7, 10)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    return write_prepared(path, "colours", {"train": (IMAGES, LABELS), "test": (IMAGES[:2], LABELS[:2])}, size=32)


@pytest.fixture
def version(original, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(original, tmp_path / "colours" / "3.0.2")


def read(path, part="train"):
    return prepared.read(str(path), "colours", part, image="image", label="label")


def test_every_record_is_there(original):
    for path in (original, original.parent, original.parent.parent):
        rows = read(path)
        contents, labels = rows.fetch(np.arange(7))
        # TFDS shuffles what it prepares, by a hash of the examples' names.
        found = sorted(zip(contents, labels.tolist(), strict=True))
        assert found == sorted((encoded(image), int(label)) for image, label in zip(IMAGES, LABELS, strict=True))
        assert labels.dtype == np.int32
    assert len(read(original, "test")) == 2
    again, _ = rows.fetch(np.array([5, 1]))
    assert again == [contents[5], contents[1]]


def test_the_newest_version_is_read(version):
    newer = shutil.copytree(version, version.parent / "3.0.10")
    assert read(version.parent).place == str(newer)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path} holds no prepared colours.*tfds build colours --file_format"):
        read(tmp_path)


def test_unknown_parts_and_features(original):
    with pytest.raises(UserError, match="has no part 'validation', it has train, test"):
        read(original, "validation")
    with pytest.raises(UserError, match="has no feature 'coarse', it has image, label"):
        prepared.read(str(original), "colours", "train", image="image", label="coarse")


def test_another_format(version):
    info = json.loads((version / "dataset_info.json").read_text())
    (version / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="prepared as tfrecord, which only TensorFlow reads"):
        read(version)


def test_a_missing_file(version):
    next(version.glob("*train*")).unlink()
    with pytest.raises(UserError, match=r"colours-train.array_record-00000-of-00001 is missing"):
        read(version)


def test_a_file_that_was_cut_off(version):
    file = next(version.glob("*train*"))
    file.write_bytes(file.read_bytes()[:-70_000])
    with pytest.raises(UserError, match="is cut off or damaged"):
        read(version)


def test_fewer_records_than_promised(version):
    shutil.copy(next(version.glob("*test*")), next(version.glob("*train*")))
    with pytest.raises(UserError, match="is cut off or damaged"):
        read(version)
