"""Pictures in class folders: found, divided, decoded when asked for, and what may be wrong with them."""

import itertools
import shutil

import numpy as np
import pytest

from jattn.config import Config, DataConfig
from jattn.data.dataset import eval_batch, train_batch
from jattn.data.decoding import decode
from jattn.data.image_folder import ImageFolder
from jattn.errors import UserError
from jattn.task import Task
from jattn.training import setup
from tests.data.files import write_classes

COUNTS = {"ant": 10, "bee": 20, "cat": 30}


@pytest.fixture
def path(tmp_path):
    write_classes(tmp_path / "pictures", COUNTS)
    return tmp_path / "pictures"


def folder(path, **options):
    return ImageFolder(path=str(path), stored_size=10, image_size=None, **options)


def names(dataset, split):
    rows, members = dataset.rows(split)
    return [rows.name(place) for place in members.tolist()]


def test_task(path):
    assert folder(path).task == Task(kind="image", num_classes=3, image_shape=(10, 10, 3))
    assert ImageFolder(path=str(path)).task.image_shape == (224, 224, 3)


def test_each_class_is_divided(path):
    dataset = folder(path, valid_share=0.1, test_share=0.2)
    found = {split: names(dataset, split) for split in dataset.splits}
    assert sorted(itertools.chain(*found.values())) == sorted(str(file) for file in path.rglob("*.png"))
    for split, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        assert dataset.size(split) == len(found[split])
        for name, count in COUNTS.items():
            assert sum(f"/{name}/" in file for file in found[split]) == round(share * count)
    assert names(folder(path, valid_share=0.1, test_share=0.2), "test") == found["test"]
    assert names(folder(path, valid_share=0.1, test_share=0.2, split_seed=1), "test") != found["test"]


def test_pictures_and_classes(path):
    dataset = folder(path)
    files = names(dataset, "valid")
    batch = eval_batch(dataset, "valid", 0, len(files))
    for file, image, label in zip(files, batch["inputs"], batch["targets"], strict=True):
        with open(file, "rb") as stream:
            np.testing.assert_array_equal(image, decode(stream.read(), 10))
        assert f"/{sorted(COUNTS)[label]}/" in file
    assert batch["weight"].all()


@pytest.mark.parametrize("valid", ["valid", "val", "validation"])
def test_split_folders(path, tmp_path, valid):
    for split, seed in (("train", 1), (valid, 2), ("test", 3)):
        write_classes(tmp_path / "split" / split, {"ant": seed, "bee": 2}, seed)
    dataset = folder(tmp_path / "split")
    for split, place, size in (("train", "train", 3), ("valid", valid, 4), ("test", "test", 5)):
        assert dataset.size(split) == size
        assert names(dataset, split) == sorted(str(file) for file in (tmp_path / "split" / place).rglob("*.png"))


def test_without_a_valid_folder_some_training_pictures_are_held_out(tmp_path):
    write_classes(tmp_path / "train", {"ant": 10, "bee": 20})
    write_classes(tmp_path / "test", {"bee": 3})
    dataset = folder(tmp_path, valid_share=0.2)
    assert [dataset.size(split) for split in dataset.splits] == [24, 6, 3]
    assert not set(names(dataset, "train")) & set(names(dataset, "valid"))
    assert set(eval_batch(dataset, "test", 0, 3)["targets"]) == {1}


def test_folders_within_a_class_and_other_files(path):
    (path / "ant" / "more").mkdir()
    shutil.copy(path / "ant" / "0.png", path / "ant" / "more" / "0.PNG")
    (path / "ant" / "notes.txt").write_text("not a picture")
    dataset = folder(path, valid_share=0.1, test_share=0.1)
    assert sum(dataset.size(split) for split in dataset.splits) == 61


def test_damaged_pictures_weigh_nothing_and_are_counted(path):
    whole = folder(path)
    files, expected = names(whole, "train"), eval_batch(whole, "train", 0, 48)
    for place, content in (4, b"damaged"), (9, b""), (20, b"damaged"):
        with open(files[place], "wb") as stream:
            stream.write(content)
    damaged = folder(path, max_undecodable=0.07)
    batch = eval_batch(damaged, "train", 0, 48)
    said = damaged.complaints()
    for line, (count, place) in zip(said, ((1, 4), (2, 9)), strict=True):
        assert line.startswith(f"{count} of the 48 pictures of split 'train' cannot be decoded, {files[place]} last (")
        assert line.endswith("left out")
    assert np.flatnonzero(batch["weight"] == 0).tolist() == [4, 9, 20]
    assert not batch["inputs"][[4, 9, 20]].any()
    good = np.setdiff1d(np.arange(48), [4, 9, 20])
    np.testing.assert_array_equal(batch["targets"], expected["targets"])
    np.testing.assert_array_equal(batch["inputs"][good], expected["inputs"][good])
    train_batch(damaged, 0, 3, 48)  # each is counted and reported once
    assert damaged.complaints() == []
    (total,) = damaged.complaints(final=True)
    assert total.startswith(f"3 of the 48 pictures of split 'train' cannot be decoded, {files[20]} last (")


def test_too_many_damaged_pictures(path):
    for file in names(folder(path), "train")[:2]:
        with open(file, "wb") as stream:
            stream.write(b"damaged")
    dataset = folder(path, max_undecodable=0.04)
    with pytest.raises(UserError, match=r"2 of the 48 .* cannot be decoded.*max_undecodable=0.04 allows 1"):
        eval_batch(dataset, "train", 0, 48)


def test_mistakes(path, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere does not exist"):
        folder(tmp_path / "nowhere").size("train")
    with pytest.raises(UserError, match="ant holds no class folders"):
        folder(path / "ant").size("train")
    with pytest.raises(UserError, match=r"split 'test' .* is empty.*test_share=0.01"):
        folder(path, test_share=0.01).size("test")
    (path / "dog").mkdir()
    with pytest.raises(UserError, match=r"class folder .*/dog holds no picture \(.jpg"):
        folder(path).size("train")


def test_split_folders_that_do_not_fit(tmp_path):
    write_classes(tmp_path / "train", {"ant": 3, "bee": 3})
    write_classes(tmp_path / "valid", {"ant": 3, "wasp": 3})
    with pytest.raises(UserError, match=r"valid has class 'wasp', which .*train has not"):
        folder(tmp_path).size("train")
    shutil.rmtree(tmp_path / "valid" / "wasp")
    config = Config(steps=1, data=DataConfig(name="image_folder", source="folder", path=str(tmp_path)))
    with pytest.raises(UserError, match=r"split 'test' of .* is empty"):  # before a run's folder is made
        setup.build(config)
    with pytest.raises(UserError, match=r"split 'test' of .* is empty"):
        folder(tmp_path).size("test")


@pytest.mark.parametrize(
    ("option", "value"),
    [("stored_size", 0), ("image_size", 0), ("max_undecodable", 1.5), ("valid_share", -0.1), ("test_share", 2)],
)
def test_values_out_of_range(option, value):
    with pytest.raises(UserError, match=f"{option}={value} of ImageFolder must be"):
        ImageFolder(**{option: value})
