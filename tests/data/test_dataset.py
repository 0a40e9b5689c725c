"""The contract that every data set keeps, and how batches are numbered and made ahead."""

import dataclasses
import pickle
import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jattn.config import DataConfig
from jattn.data import DATASETS, build, eval_batch, num_eval_batches, prefetched, train_batch
from jattn.data.cifar import CIFAR10, CIFAR100
from jattn.data.digits import Digits
from jattn.data.imagenet import ImageNet
from jattn.data.listops import ListOps
from jattn.errors import UserError
from tests.data.files import small, write_cifar, write_classes
from tests.data.text import made

OPTIONS = {
    "digits": "",
    "python_docs": "sequence_length=31",
    "listops": "train_size=211, valid_size=23, test_size=29, max_length=20",
    "mqar": "train_size=211, valid_size=23, test_size=29, sequence_length=19, num_pairs=3, vocab_size=22",
}


def cifar(path, monkeypatch, cls, count):
    """A small published archive; one with 10,000 pictures in a file would be no quicker to make than to read."""
    archive, _ = write_cifar(path, small(cls.archives[1], count), packed=False)
    monkeypatch.setattr(cls, "archives", (archive,))
    return DataConfig(name=cls.name, source="folder", path=str(path), options="valid_size=9")


def image_folder(path):
    write_classes(path, {"ant": 31, "bee": 40})
    return DataConfig(name="image_folder", source="folder", path=str(path), options="stored_size=9, image_size=8")


def imagenet(path, monkeypatch):
    monkeypatch.setattr(ImageNet, "num_classes", 2)
    for part, count in (("train", 20), ("val", 5)):
        write_classes(path / part, {"n01": count, "n02": count})
    return DataConfig(
        name="imagenet", source="folder", path=str(path), options="stored_size=9, image_size=12, valid_size=7"
    )


PICTURES = {
    "cifar10": lambda path, monkeypatch: cifar(path, monkeypatch, CIFAR10, 13),
    "cifar100": lambda path, monkeypatch: cifar(path, monkeypatch, CIFAR100, 61),
    "image_folder": lambda path, monkeypatch: image_folder(path),
    "imagenet": imagenet,
}
"""Pictures that lie elsewhere: functions that write a small data set below a folder and return its config."""


@pytest.fixture(params=DATASETS)
def dataset(request, tmp_path, monkeypatch):
    if request.param in OPTIONS:
        return build(DataConfig(name=request.param, options=OPTIONS[request.param]))
    if request.param in PICTURES:
        return build(PICTURES[request.param](tmp_path, monkeypatch))
    monkeypatch.setenv("JATTN_CACHE", str(tmp_path / "cache"))
    return build(made.config(request.param, tmp_path / "data", monkeypatch))


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


def test_shapes_and_types_fit_the_task(dataset):
    task = dataset.task
    for batch in (train_batch(dataset, 0, 0, 7), eval_batch(dataset, "valid", 0, 7)):
        assert batch.keys() == {"inputs", "targets", "weight", "example_id"}
        assert batch["example_id"].shape == (7,)
        assert batch["example_id"].dtype == np.int32
        assert batch["weight"].dtype == np.float32
        assert batch["targets"].dtype == np.int32
        if task.kind == "image":
            prepared = jax.eval_shape(lambda x, i: dataset.prepare(x, i, None), batch["inputs"], batch["example_id"])
            assert prepared.shape == (7, *task.image_shape)
        else:
            assert batch["inputs"].shape == (7, task.length)
            assert batch["inputs"].dtype == np.int32
            assert 0 <= batch["inputs"].min() <= batch["inputs"].max() < task.vocab_size
        per_example = (7, task.length) if task.kind == "language" else (7,)
        assert batch["targets"].shape == batch["weight"].shape == per_example
        classes = task.vocab_size if task.kind == "language" else task.num_classes
        assert 0 <= batch["targets"].min() <= batch["targets"].max() < classes


def test_a_batch_is_a_function_of_seed_and_number(dataset):
    later = [train_batch(dataset, 5, n, 16) for n in (0, 3, 40)]
    again = dataclasses.replace(dataset)  # nothing remembered
    for n, batch in zip((40, 3, 0), reversed(later), strict=True):
        assert_equal(train_batch(again, 5, n, 16), batch)
    assert (train_batch(dataset, 6, 0, 16)["example_id"] != later[0]["example_id"]).any()


def test_the_stream_does_not_depend_on_the_batch_size(dataset):
    small = [train_batch(dataset, 1, n, 6) for n in range(70)]
    large = [train_batch(dataset, 1, n, 42) for n in range(10)]
    for name in small[0]:
        np.testing.assert_array_equal(
            np.concatenate([b[name] for b in small]), np.concatenate([b[name] for b in large])
        )


def test_an_epoch_visits_each_training_example_once(dataset):
    size = dataset.size("train")
    batches = -(-3 * size // 64)
    stream = np.concatenate([train_batch(dataset, 2, n, 64)["example_id"] for n in range(batches)])
    epochs = stream[: 3 * size].reshape(3, size)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (3, 1)))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (epochs[first] != epochs[second]).mean() > 0.9


def test_a_batch_may_hold_several_epochs(dataset):
    size = dataset.size("train")
    batch = train_batch(dataset, 2, 0, 2 * size + 5)
    singles = [train_batch(dataset, 2, n, 1) for n in (0, size - 1, size, 2 * size + 4)]
    for place, single in zip((0, size - 1, size, 2 * size + 4), singles, strict=True):
        assert_equal(single, {name: array[place : place + 1] for name, array in batch.items()})


def test_evaluation_sees_every_example_once_in_order(dataset):
    for split in dataset.splits:
        size, batch_size = dataset.size(split), 17
        batches = [eval_batch(dataset, split, n, batch_size) for n in range(num_eval_batches(dataset, split, 17))]
        joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        index = np.arange(size)
        whole = dataset.examples(split, index, np.zeros_like(index))
        padding = len(joined["targets"]) - size
        assert 0 <= padding < batch_size
        np.testing.assert_array_equal(joined["example_id"], np.r_[index, np.zeros(padding, int)])
        assert_equal({name: joined[name][:size] for name in whole}, whole)
        assert joined["weight"][:size].reshape(size, -1).any(axis=1).all()
        assert not joined["weight"][size:].any()
        assert joined["weight"].dtype == np.float32


def test_evaluation_batches_that_do_not_exist(dataset):
    for n in (-1, num_eval_batches(dataset, "test", 8)):
        with pytest.raises(IndexError, match=str(n)):
            eval_batch(dataset, "test", n, 8)


@given(size=st.integers(1, 100), batch_size=st.integers(1, 120))
@settings(max_examples=50, deadline=None)
def test_number_of_evaluation_batches(size, batch_size):
    batches = num_eval_batches(ListOps(valid_size=size), "valid", batch_size)
    assert (batches - 1) * batch_size < size <= batches * batch_size


def test_unknown_splits_and_seeds(dataset):
    with pytest.raises(UserError, match=r"unknown split 'vaild': did you mean 'valid'\?"):
        dataset.size("vaild")
    with pytest.raises(UserError, match="unknown split 'dev'"):
        eval_batch(dataset, "dev", 0, 4)
    with pytest.raises(UserError, match="seed is -1"):
        train_batch(dataset, -1, 0, 4)


def test_prepare_makes_floats_of_pictures_and_keeps_tokens(dataset):
    batch = eval_batch(dataset, "valid", 0, 5)
    prepared = jax.jit(dataset.prepare)(batch["inputs"], batch["example_id"], jax.random.key(0))
    if dataset.task.kind == "image":
        assert prepared.dtype == np.float32
    else:
        np.testing.assert_array_equal(prepared, batch["inputs"])


def test_description_is_one_line_with_the_size(dataset):
    assert "\n" not in dataset.description()
    shown = len(dataset.tokens("train")) if hasattr(dataset, "tokens") else dataset.size("train")
    assert f"{shown:,}" in dataset.description()


def test_data_sets_are_values(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy == dataset
    assert hash(copy) == hash(dataset)
    assert_equal(train_batch(copy, 0, 1, 3), train_batch(dataset, 0, 1, 3))


def test_the_order_never_changes():
    """Recorded: a run that is resumed with a newer jattn, NumPy or machine must go on where it was."""
    ids = [train_batch(Digits(), seed, n, 6)["example_id"].tolist() for seed, n in ((0, 0), (3, 500))]
    assert ids == [[693, 1078, 747, 1168, 823, 3], [548, 542, 55, 922, 350, 1089]]


def test_prefetched_batches_come_in_order():
    for buffer in (0, 1, 3, 50):
        for num_threads in (1, 4):
            batches = prefetched(lambda n: {"n": np.array([n])}, 7, 27, buffer, num_threads)
            assert [int(batch["n"][0]) for batch in batches] == list(range(7, 27))
            batches.close()


def test_nothing_to_prefetch():
    batches = prefetched(lambda n: {"n": np.array([n])}, 7, 7, 2)
    assert list(batches) == []


def test_prefetch_runs_ahead_by_its_buffer():
    made, ahead = [], threading.Event()

    def make(n):
        made.append(threading.get_ident())
        if n == 3:
            ahead.set()
        return {"n": np.array([n])}

    batches = prefetched(make, 0, 100, 3)
    next(batches)
    assert ahead.wait(timeout=60)  # batches 1, 2 and 3 are made though nobody asked for them
    batches.close()
    assert threading.get_ident() not in made
    assert len(made) == 4


def test_without_a_buffer_the_caller_makes_the_batches():
    made = []

    def make(n):
        made.append(threading.get_ident())
        return {"n": np.array([n])}

    batches = prefetched(make, 0, 100, 0)
    next(batches)
    assert made == [threading.get_ident()]


def test_closing_stops_the_workers():
    began, go_on, made = threading.Event(), threading.Event(), []

    def make(n):
        made.append(n)
        if n == 1:
            began.set()
            go_on.wait(timeout=60)
        return {"n": np.array([n])}

    before = set(threading.enumerate())
    batches = prefetched(make, 0, 100, 8)
    next(batches)
    assert began.wait(timeout=60)
    workers = set(threading.enumerate()) - before
    batches.close()
    go_on.set()
    for worker in workers:
        worker.join(timeout=60)
    assert workers
    assert not any(worker.is_alive() for worker in workers)
    assert made == [0, 1]  # 2 to 8 were waiting and are dropped
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize("buffer", [0, 2])
def test_errors_of_the_worker_reach_the_consumer(buffer):
    def make(n):
        if n == 12:
            raise UserError("the file of batch 12 is damaged")
        return {"n": np.array([n])}

    batches = prefetched(make, 10, 20, buffer)
    assert [int(next(batches)["n"][0]) for _ in range(2)] == [10, 11]
    with pytest.raises(UserError, match="batch 12"):
        next(batches)
    batches.close()
