"""CIFAR from each of its sources, its split, and what the model gets."""

import dataclasses
import os
import pickle

import jax
import numpy as np
import pytest

from jattn.config import DataConfig
from jattn.data import build
from jattn.data.cifar import CIFAR10, CIFAR100
from jattn.data.decoding import decode
from jattn.errors import UserError
from jattn.task import Task
from tests.data.files import small, write_cifar, write_parquet, write_prepared


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    """Folders of each test's own."""
    monkeypatch.setenv("JATTN_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Small CIFAR-10s, published in the first form only: the parts in it."""
    archive, parts = write_cifar(tmp_path, small(CIFAR10.archives[0], 8), packed=False)
    monkeypatch.setattr(CIFAR10, "archives", (archive,))
    return parts


def whole(dataset, split):
    index = np.arange(dataset.size(split))
    return dataset.examples(split, index, np.zeros_like(index))


def rows(images, labels):
    return sorted([*image.ravel().tolist(), int(label)] for image, label in zip(images, labels, strict=True))


def test_the_valid_split_is_held_out_of_the_training_part(parts, tmp_path):
    dataset = CIFAR10(path=str(tmp_path), valid_size=10)
    train, valid, test = (whole(dataset, split) for split in dataset.splits)
    assert [len(split["targets"]) for split in (train, valid, test)] == [30, 10, 8]
    joined = [np.concatenate([train[name], valid[name]]) for name in ("inputs", "targets")]
    assert rows(*joined) == rows(*parts["train"])
    np.testing.assert_array_equal(test["inputs"], parts["test"][0])
    np.testing.assert_array_equal(test["targets"], parts["test"][1])
    other = whole(dataclasses.replace(dataset, split_seed=1), "valid")
    assert rows(other["inputs"], other["targets"]) != rows(valid["inputs"], valid["targets"])


def test_validation_on_the_test_part(parts, tmp_path):
    dataset = CIFAR10(path=str(tmp_path), valid_size=0)
    assert [dataset.size(split) for split in dataset.splits] == [40, 8, 8]
    np.testing.assert_array_equal(whole(dataset, "valid")["inputs"], parts["test"][0])


def test_every_source_has_the_same_pictures(parts, tmp_path):
    hub, tfds = tmp_path / "hub", tmp_path / "tfds"
    for part, (images, labels) in parts.items():
        write_parquet(hub / f"{part}-00000-of-00001.parquet", images, labels, image="img")
    write_prepared(tfds, "cifar10", parts, size=32)
    for source, path in (("folder", tmp_path), ("huggingface", hub), ("tfds", tfds)):
        dataset = build(DataConfig(name="cifar10", source=source, path=str(path), options="valid_size=0"))
        for split in ("train", "test"):
            found = whole(dataset, split)
            assert rows(found["inputs"], found["targets"]) == rows(*parts[split])
        assert source in dataset.description()


def test_cifar100_on_the_hub_has_fine_labels(tmp_path, monkeypatch):
    archive, parts = write_cifar(tmp_path, small(CIFAR100.archives[1], 8), packed=False)
    monkeypatch.setattr(CIFAR100, "archives", (archive,))
    for part, (images, labels) in parts.items():
        file = tmp_path / f"{part}.parquet"
        write_parquet(file, images, labels, image="img", label="fine_label", num_classes=100)
    for source in ("folder", "huggingface"):
        dataset = CIFAR100(source=source, path=str(tmp_path), valid_size=2)
        np.testing.assert_array_equal(whole(dataset, "test")["targets"], parts["test"][1])
    assert dataset.task == Task(kind="image", num_classes=100, image_shape=(32, 32, 3))


@pytest.mark.parametrize("source", ["huggingface", "tfds"])
def test_pictures_are_decoded_once_until_their_files_change(parts, tmp_path, monkeypatch, source):
    if source == "tfds":
        file = next(write_prepared(tmp_path, "cifar10", parts, size=32).glob("*-test.array_record*"))
    else:
        for part, (images, labels) in parts.items():
            file = tmp_path / f"{part}.parquet"
            write_parquet(file, images, labels, image="img")
    counted = []
    monkeypatch.setattr("jattn.data.cifar.decode", lambda content: (counted.append(1), decode(content))[1])

    def test_part():
        return whole(CIFAR10(source=source, path=str(tmp_path), valid_size=0), "test")

    first = test_part()
    assert len(counted) == 48
    again = test_part()
    assert len(counted) == 48
    np.testing.assert_array_equal(again["inputs"], first["inputs"])
    assert rows(again["inputs"], again["targets"]) == rows(*parts["test"])
    os.utime(file, ns=(1, 1))
    test_part()
    assert len(counted) == 96


def test_a_part_of_another_size(parts, tmp_path):
    write_parquet(tmp_path / "test.parquet", *parts["test"], image="img")
    write_parquet(tmp_path / "train.parquet", *(array[:-1] for array in parts["train"]), image="img")
    with pytest.raises(UserError, match=r"part 'train' of .* has 39 pictures where cifar10 has 40"):
        CIFAR10(source="huggingface", path=str(tmp_path), valid_size=5).size("train")


@pytest.mark.parametrize(
    ("image", "message"),
    [(b"\x89PNG\r\n", "cannot be decoded"), (np.zeros((8, 8, 3), np.uint8), r"has shape \(8, 8, 3\)")],
)
def test_a_picture_that_does_not_belong(parts, tmp_path, image, message):
    images, labels = parts["train"]
    write_parquet(tmp_path / "test.parquet", *parts["test"], image="img")
    write_parquet(tmp_path / "train.parquet", [*images[:-1], image], labels, image="img")
    with pytest.raises(UserError, match=f"row 39 of {tmp_path} {message}"):
        CIFAR10(source="huggingface", path=str(tmp_path), valid_size=5).size("train")


def test_a_model_can_be_built_without_the_files():
    dataset = CIFAR10(path="/nowhere")
    assert dataset.task == Task(kind="image", num_classes=10, image_shape=(32, 32, 3))
    with pytest.raises(UserError, match="/nowhere holds none of"):
        dataset.size("train")


def test_the_usual_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/data/cifar100 holds none of"):
        CIFAR100().size("train")


def test_mean_and_std_are_taken_out(parts, tmp_path):
    dataset = CIFAR10(path=str(tmp_path), valid_size=0, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    images = np.broadcast_to(np.array([0, 51, 255], np.uint8)[:, None, None, None], (3, 32, 32, 3))
    prepared = jax.jit(lambda x, ids: dataset.prepare(x, ids, None))(images, np.arange(3, dtype=np.int32))
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared[:, 7, 9], [[-1, -1, 0], [-0.6, -0.2, 0.2], [1, 3, 1]], atol=1e-6)


def test_pictures_are_not_pickled(parts, tmp_path):
    dataset = CIFAR10(path=str(tmp_path), valid_size=5)
    dataset.size("train")
    assert len(pickle.dumps(dataset)) < 2000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_size": -1}, "valid_size=-1 of CIFAR10 must be between 0 and 49999"),
        ({"valid_size": 50_000}, "valid_size=50000 of CIFAR10"),
        ({"split_seed": -1}, "split_seed=-1"),
        ({"mean": (0.5, 0.5)}, r"mean=\(0.5, 0.5\) of CIFAR10 must be three numbers between 0.0 and 1"),
        ({"std": (0.5, 0.5, 0)}, r"std=\(0.5, 0.5, 0\) of CIFAR10 must be three numbers between 1e-06 and 1"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        CIFAR10(**options)
