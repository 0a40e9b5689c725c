"""The frozen text: the right one, in three parts that share nothing, with its licence."""

import hashlib
import lzma
import runpy
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from jattn.data import python_docs
from jattn.data.python_docs import PythonDocs, decompressed, paragraph_end, split_text
from jattn.errors import UserError

EMBEDDED = resources.files("jattn.data").joinpath("embedded")
PACKED = EMBEDDED.joinpath("python_docs.txt.xz").read_bytes()
TEXT = lzma.decompress(PACKED)


def paragraphs(text):
    return [" ".join(paragraph.split()) for paragraph in text.decode().split("\n\n") if paragraph]


def test_size_and_hash():
    assert len(TEXT) == 373_963
    assert hashlib.sha256(TEXT).hexdigest() == python_docs.SHA256
    assert TEXT.startswith(b'The "assert" statement\n')


def test_licence_and_origin_lie_beside_it():
    licence = EMBEDDED.joinpath("LICENSE-python.txt").read_text(encoding="utf-8")
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in licence
    notice = EMBEDDED.joinpath("NOTICE-python.txt").read_text(encoding="utf-8")
    assert "Python Software Foundation; All Rights Reserved" in notice
    assert "Python 3.11" in notice
    assert f"{len(TEXT)} bytes" in notice
    assert python_docs.SHA256 in notice


def test_the_splits_share_no_paragraph():
    parts = {split: paragraphs(split_text(split)) for split in PythonDocs.splits}
    joined = [paragraph for part in parts.values() for paragraph in part]
    assert joined == paragraphs(TEXT)
    assert len(set(joined)) == len(joined) == 2071
    assert all(len(part) > 80 for part in parts.values())


def test_the_splits_are_90_5_5_and_cut_no_paragraph():
    train, valid, test = (split_text(split) for split in ("train", "valid", "test"))
    assert train + valid + test == TEXT
    assert train.endswith(b"\n\n")
    assert valid.endswith(b"\n\n")
    for part, share in ((train, 0.9), (valid, 0.05), (test, 0.05)):
        assert abs(len(part) / len(TEXT) - share) < 0.001


def test_the_nearest_end_of_a_paragraph():
    text = b"one\n\nthree\n\nseven"
    ends = {0: 0, 2: 0, 3: 5, 5: 5, 8: 5, 9: 12, 12: 12, 14: 12, 15: 17, 17: 17}
    assert {position: paragraph_end(text, position) for position in ends} == ends


def test_tokens_are_bytes():
    corpus = PythonDocs(sequence_length=100)
    for split in corpus.splits:
        np.testing.assert_array_equal(corpus.tokens(split), list(split_text(split)))
    assert corpus.task.vocab_size == 256
    assert corpus.task.tokens_per_byte == 1
    assert corpus.examples("test", np.array([1]), np.array([0]))["inputs"].tolist() == [
        list(split_text("test")[100:200])
    ]


def test_context_longer_than_a_split():
    with pytest.raises(UserError, match=r"sequence_length=20000 .* 'valid' .* 18875 tokens"):
        PythonDocs(sequence_length=20_000)


def test_unknown_split():
    with pytest.raises(UserError, match="unknown split 'dev'"):
        split_text("dev")


@pytest.mark.parametrize("place", [0, 30, len(PACKED) // 2, -1])
def test_a_flipped_bit_is_noticed(place):
    damaged = bytearray(PACKED)
    damaged[place] ^= 4
    with pytest.raises(UserError, match=r"python_docs.txt.xz is damaged"):
        decompressed(bytes(damaged))


def test_another_text_is_noticed():
    assert decompressed(PACKED) == TEXT
    for packed in (PACKED[:-100], b"", lzma.compress(TEXT[:-1])):
        with pytest.raises(UserError, match="install jattn again"):
            decompressed(packed)


def test_the_script_keeps_the_first_of_equal_paragraphs():
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "freeze_python_docs.py"))
    topics = {
        "b": "\nTitle\n*****\n\n   wrapped\n   text\n\nnew in b\n",
        "a": "Title\n*****\n\nwrapped text\n\n\n   code\n     indented\n\n\n\n",
        "c": "new in b\n\n\n",
    }
    expected = ["Title\n*****", "wrapped text", "   code\n     indented", "new in b"]
    assert script["distinct_paragraphs"](topics) == expected
