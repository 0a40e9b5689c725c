"""Parquet files of pictures, made here by the library that makes the hub's, and what may be wrong with them."""

import numpy as np
import pytest

from jattn.data import hub
from jattn.errors import UserError
from tests.data.files import encoded, pictures, write_parquet

IMAGES, LABELS = pictures(7, 10)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Caches of the test's own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))


def read(path, part="train"):
    return hub.read(str(path), "owner/pictures", part, image="img", label="label")


def write(folder, name="train-00000-of-00001.parquet", rows=slice(None)):
    write_parquet(folder / name, IMAGES[rows], LABELS[rows], image="img")
    return folder


def assert_same(rows):
    assert len(rows) == 7
    index = np.array([6, 0, 3])
    contents, labels = rows.fetch(index)
    assert contents == [encoded(IMAGES[place]) for place in index]
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, LABELS[index])


@pytest.mark.parametrize(
    "names",
    [
        ("plain_text/train-00000-of-00001.parquet",),
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"),
        ("default/train/0000.parquet", "default/train/0001.parquet"),
        ("train.parquet",),
    ],
)
def test_the_hub_s_ways_to_name_files(names, tmp_path):
    folder = tmp_path / "pictures"
    ends = np.array_split(np.arange(7), len(names))
    for name, rows in zip(names, ends, strict=True):
        write(folder, name, rows)
    write(folder, "data/test-00000-of-00001.parquet", slice(2))
    assert_same(read(folder))
    assert len(read(folder, "test")) == 2


def test_the_hub_s_cache(tmp_path):
    place = tmp_path / "hub_cache" / "datasets--owner--pictures"
    write(place / "snapshots" / "abc123")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc123")
    assert_same(read("owner/pictures"))
    assert_same(read(""))


def test_nothing_there(tmp_path):
    for path in ("", "owner/pictures"):
        with pytest.raises(UserError, match=r"hub_cache: get it by `hf download owner/pictures --repo-type dataset`"):
            read(path)
    with pytest.raises(UserError, match=r"does not exist.*hf download owner/pictures --repo-type dataset --local-dir"):
        read(tmp_path / "missing")
    with pytest.raises(UserError, match=r"no parquet files of part 'valid'"):
        read(write(tmp_path), "valid")


def test_a_shard_is_missing(tmp_path):
    write(tmp_path, "train-00001-of-00003.parquet")
    with pytest.raises(UserError, match="lacks file 0 of the 3 of part 'train'"):
        read(tmp_path)


def test_a_file_that_was_cut_off(tmp_path):
    write(tmp_path)
    file = tmp_path / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train-00000-of-00001.parquet is cut off or damaged"):
        read(tmp_path)


def test_a_file_that_is_damaged_inside(tmp_path):
    write(tmp_path)
    file = tmp_path / "train-00000-of-00001.parquet"
    content = bytearray(file.read_bytes())
    content[4:400] = bytes(396)
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)


def test_another_column(tmp_path):
    write_parquet(tmp_path / "train.parquet", IMAGES, LABELS, image="image")
    with pytest.raises(UserError, match="has no column 'img', it has image, label"):
        read(tmp_path)
