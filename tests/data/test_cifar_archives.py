"""CIFAR's published archives, small ones made here in the same format, and what may be wrong with them."""

import pickle

import numpy as np
import pytest

from jattn.data.cifar_archives import CIFAR10, CIFAR100, read
from jattn.errors import UserError
from tests.data.files import python2_pickle, small, write_cifar

ARCHIVES = {archive.name: small(archive, 3) for archive in (*CIFAR10, *CIFAR100)}
BINARY, PYTHON = ARCHIVES["cifar-10-binary"], ARCHIVES["cifar-10-python"]


def assert_parts_equal(found, expected):
    assert found.keys() == expected.keys() == {"train", "test"}
    for part, (images, labels) in expected.items():
        np.testing.assert_array_equal(found[part][0], images)
        np.testing.assert_array_equal(found[part][1], labels)
        assert (found[part][0].dtype, found[part][1].dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ARCHIVES)
def test_every_form_is_read(name, packed, tmp_path):
    archive, parts = write_cifar(tmp_path, ARCHIVES[name], packed)
    assert_parts_equal(read((archive,), tmp_path), parts)
    itself = tmp_path / (archive.file if packed else archive.folder)
    assert_parts_equal(read((archive,), itself), parts)


def test_the_second_form_is_found_too(tmp_path):
    archive, parts = write_cifar(tmp_path, BINARY, packed=False)
    assert_parts_equal(read((PYTHON, archive), tmp_path), parts)


def test_sizes_are_those_of_the_published_ones():
    for archives in (CIFAR10, CIFAR100):
        for archive in archives:
            counts = {part: sum(files.values()) for part, files in archive.parts.items()}
            assert counts == {"train": 50_000, "test": 10_000}


def test_nothing_there(tmp_path):
    with pytest.raises(UserError) as error:
        read(CIFAR10, tmp_path / "missing")
    for needed in (str(tmp_path / "missing"), "cifar-10-batches-py/", "cifar-10-binary.tar.gz", "170 MB"):
        assert needed in str(error.value)
    assert f"`python -m jattn data get cifar10 --path {tmp_path / 'missing'}`" in str(error.value)
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in str(error.value)


def test_a_download_that_was_cut_off(tmp_path):
    archive, _ = write_cifar(tmp_path, PYTHON, packed=True)
    file = tmp_path / archive.file
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=rf"{archive.size - 100:,} of {archive.size:,} bytes.*cut off.*data get cifar10 "
    ):
        read((archive,), tmp_path)


def test_another_file_of_the_same_name(tmp_path):
    archive, _ = write_cifar(tmp_path, PYTHON, packed=True)
    file = tmp_path / archive.file
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match=rf"damaged.*published: {archive.size:,}, {archive.md5}"):
        read((archive,), tmp_path)


def test_a_folder_that_lacks_a_file(tmp_path):
    archive, _ = write_cifar(tmp_path, BINARY, packed=False)
    (tmp_path / archive.folder / "data_batch_4.bin").unlink()
    with pytest.raises(UserError, match=r"cifar-10-batches-bin lacks data_batch_4.bin: unpack cifar-10-binary"):
        read((archive,), tmp_path)


def test_records_that_are_cut_off(tmp_path):
    archive, _ = write_cifar(tmp_path, BINARY, packed=False)
    file = tmp_path / archive.folder / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"test_batch.bin has 9,218 bytes where 3 pictures take 9,219"):
        read((archive,), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}", "cannot be read"),
        (python2_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}), r"\(2, 3072\).*3 pictures"),
        (
            python2_pickle({b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 10]}),
            "labels 0 to 10 where 0 to 9",
        ),
        (python2_pickle({b"labels": [0, 1, 2]}), "cannot be read"),
        (pickle.dumps({b"data": print}), "builtins.print does not belong"),
    ],
)
def test_damaged_pickles(content, message, tmp_path):
    archive, _ = write_cifar(tmp_path, PYTHON, packed=False)
    (tmp_path / archive.folder / "data_batch_2").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read((archive,), tmp_path)
