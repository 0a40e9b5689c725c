"""Pieces of text, from files of every kind."""

import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jattn.data.text import files
from jattn.data.text.files import File, batches, by_split, find, fingerprint, joined, lines, pieces, row_pieces
from jattn.errors import UserError
from tests.data.text.made import LINES, TEXT, table


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("a ü東\n"), max_size=40).map("".join), st.integers(4, 9))
def test_pieces_joined_are_the_text_and_no_character_is_cut(text, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "LIMIT", limit)
        found = list(lines(io.BytesIO(text.encode()), "it"))
        rows = list(row_pieces(text))
    assert b"".join(found) == text.encode()
    assert "".join(piece.decode() for piece in found) == text
    assert all(0 < len(piece) <= limit and b"\n" not in piece[:-1] for piece in found)
    ended = text if text.endswith("\n") else text + "\n"
    assert b"".join(rows).decode() == ended
    assert all(0 < len(piece.decode().encode()) <= limit for piece in rows)


def test_long_lines_are_cut_before_spaces(monkeypatch):
    monkeypatch.setattr(files, "LIMIT", 8)
    assert list(lines(io.BytesIO(b"one two three four\nfive"), "it")) == [b"one two", b" three", b" four\n", b"five"]
    assert list(lines(io.BytesIO(b"abcdefghij"), "it")) == [b"abcdefgh", b"ij"]


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\nna\xefve\n")
    with pytest.raises(UserError, match=r"a.txt is not UTF-8 \(byte 7 is 0xef\): convert it with iconv.*=bytes"):
        list(pieces(File(tmp_path / "a.txt")))
    assert list(pieces(File(tmp_path / "a.txt"), text=False)) == [b"fine\n", b"na\xefve\n"]


def test_members_of_archives(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.txt", TEXT)
    assert b"".join(pieces(File(path, "in/a.txt"))).decode() == TEXT
    with pytest.raises(UserError, match=r"a.zip has no member in/b.txt"):
        list(pieces(File(path, "in/b.txt")))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a.zip is truncated or damaged \(.*\): get it again"):
        list(pieces(File(path, "in/a.txt")))
    path.write_bytes(whole[:60] + b"\0\0\0\0" + whole[64:])
    with pytest.raises(UserError, match=r"a.zip is truncated or damaged"):
        list(pieces(File(path, "in/a.txt")))


def test_rows_of_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    table(path, text=["one\n", "two\nthree", "", None])
    assert list(pieces(File(path))) == [b"one\n", b"two\n", b"three\n", b"\n", b"\n"]
    assert list(pieces(File(path), empty=b" \n"))[-1] == b" \n"
    with pytest.raises(UserError, match=r"a.parquet has no column 'content': its columns are text"):
        list(pieces(File(path), column="content"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a.parquet is truncated or damaged"):
        list(pieces(File(path)))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"a.txt cannot be read \(No such file or directory\)"):
        list(pieces(File(tmp_path / "a.txt")))
    with pytest.raises(UserError, match="cannot be read"):
        fingerprint([File(tmp_path / "a.txt")])


def test_files_are_joined_by_newlines(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two\n")
    (tmp_path / "c.txt").write_text("")
    (tmp_path / ".hidden").write_text("not")
    found = find(tmp_path, "**/*")
    assert [file.path.name for file in found] == ["a.txt", "b.txt", "c.txt"]
    assert b"".join(joined(found)) == b"one\ntwo\n"
    assert b"".join(joined(found[:1])) == b"one"


def test_names_of_splits(tmp_path):
    names = {
        "train": ["train.txt", "wiki.train.raw", "train-00000-of-00002.parquet", "train/a.txt", "Train/b.txt"],
        "valid": ["valid.txt", "val.txt", "dev/a.txt", "validation-00000-of-00001.parquet", "x/my_valid.txt"],
        "test": ["test.txt", "wiki.test.tokens", "test/neg/1_2.txt"],
        None: ["trained.txt", "latest.txt", "a/b.txt", "validated/b.txt"],
    }
    for split, paths in names.items():
        for path in paths:
            file = File(tmp_path / path)
            assert by_split(tmp_path, [file]) == ({split: [file]} if split else {}), path


def test_batches_are_of_a_megabyte():
    found = list(batches([b"x" * 2**18] * 9))
    assert [len(batch) for batch in found] == [4, 4, 1]
    assert list(batches([])) == []


def test_a_fingerprint_changes_with_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(LINES[0])
    first = fingerprint([File(path)])
    assert first == fingerprint([File(path)])
    path.write_text(LINES[0] + LINES[1])
    assert fingerprint([File(path)]) != first
