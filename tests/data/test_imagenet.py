"""ImageNet from each of its sources; three classes, a few pictures."""

import pickle

import numpy as np
import pytest

from jattn.data.dataset import eval_batch
from jattn.data.imagenet import ImageNet
from jattn.errors import UserError
from tests.data.files import pictures, write_classes, write_parquet, write_prepared


@pytest.fixture(autouse=True)
def few_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageNet, "num_classes", 3)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def made(path, source):
    """Writes 12 training and 5 validation pictures for a source; returns their classes."""
    parts = {"train": pictures(12, 3, 1, 9), "validation": pictures(5, 3, 2, 9)}
    if source == "folder":
        write_classes(path / "train", {"n01": 3, "n02": 4, "n03": 5}, 1, "JPEG")
        write_classes(path / "val", {"n01": 2, "n02": 2, "n03": 1}, 2, "JPEG")
        return np.repeat([0, 1, 2], [3, 4, 5]), np.repeat([0, 1, 2], [2, 2, 1])
    if source == "huggingface":
        for part, (images, labels) in parts.items():
            write_parquet(path / f"{part}-00000-of-00001.parquet", images, labels, num_classes=3)
    else:
        write_prepared(path, "imagenet2012", parts, num_classes=3)
    return parts["train"][1], parts["validation"][1]


@pytest.mark.parametrize("source", ImageNet.sources)
def test_sources(source, tmp_path):
    train, test = made(tmp_path, source)
    dataset = ImageNet(source=source, path=str(tmp_path), valid_size=4, stored_size=8, image_size=6)
    assert [dataset.size(split) for split in dataset.splits] == [8, 4, 5]
    found = {split: eval_batch(dataset, split, 0, dataset.size(split)) for split in dataset.splits}
    assert all(batch["inputs"].shape[1:] == (8, 8, 3) and batch["weight"].all() for batch in found.values())
    assert sorted([*found["train"]["targets"], *found["valid"]["targets"]]) == sorted(train)
    assert sorted(found["test"]["targets"]) == sorted(test)
    copy = pickle.loads(pickle.dumps(dataset))  # without its open files
    np.testing.assert_array_equal(eval_batch(copy, "valid", 0, 4)["inputs"], found["valid"]["inputs"])
    assert dataset.task.image_shape == (6, 6, 3)


def test_validation_on_the_test_split(tmp_path):
    made(tmp_path, "folder")
    dataset = ImageNet(path=str(tmp_path), valid_size=0, stored_size=8)
    assert [dataset.size(split) for split in dataset.splits] == [12, 5, 5]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}/train does not exist.*https://image-net.org/download"):
        ImageNet(path=str(tmp_path)).size("train")
    made(tmp_path, "folder")
    with pytest.raises(UserError, match="valid_size=12 leaves none of the 12 pictures"):
        ImageNet(path=str(tmp_path), valid_size=12).size("train")
    (tmp_path / "train" / "n04").mkdir()
    with pytest.raises(UserError, match="train has 4 class folders where ImageNet-1k has 3"):
        ImageNet(path=str(tmp_path)).size("train")
