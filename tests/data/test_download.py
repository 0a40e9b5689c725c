"""Downloads from servers that give parts or whole files only, break off, fall silent, have other files or none."""

import fcntl
import hashlib

import numpy as np
import pytest

from jattn.data import download
from jattn.data.download import Remote, fetch
from jattn.errors import UserError
from tests.data.server import serving

CONTENT = np.random.default_rng(0).integers(0, 256, 700_001, np.uint8).tobytes()
OTHER = bytes(len(CONTENT))


def remote(url, content=CONTENT):
    digest = hashlib.sha256(content).hexdigest()
    return Remote("sub/file.bin", f"{url}/file.bin", len(content), f"sha256:{digest}")


def get(server, folder, **options):
    seen = []
    fetched = fetch(remote(server.url), folder, seen.append, **options)
    return fetched, seen


def ranges(server):
    return [wanted for _, wanted in server.requests]


def names(folder):
    return sorted(path.name for path in (folder / "sub").iterdir())


def test_a_file_is_got_once_and_progress_is_told(tmp_path):
    with serving({"/file.bin": CONTENT}) as server:
        fetched, seen = get(server, tmp_path)
        assert fetched
        assert not get(server, tmp_path)[0]
        assert ranges(server) == [None]
    assert (tmp_path / "sub" / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, len(CONTENT))


def test_a_connection_that_breaks_is_made_again_where_it_broke(tmp_path):
    with serving({"/file.bin": CONTENT}, cuts=[300_000, 7]) as server:
        get(server, tmp_path)
        assert ranges(server) == [None, "bytes=300000-", "bytes=300007-"]
    assert (tmp_path / "sub" / "file.bin").read_bytes() == CONTENT


def test_without_ranges_it_begins_anew(tmp_path):
    with serving({"/file.bin": CONTENT}, ranges=False, cuts=[300_000]) as server:
        get(server, tmp_path)
        assert ranges(server) == [None, "bytes=300000-"]
    assert (tmp_path / "sub" / "file.bin").read_bytes() == CONTENT


def test_what_broke_too_often_is_continued_by_the_next_call(tmp_path):
    cuts = [1000] * download.ATTEMPTS
    with serving({"/file.bin": CONTENT}, cuts=cuts) as server:
        with pytest.raises(UserError, match=r"broke 5 times \(.*\), 5,000 of 700,001 bytes are there: the same"):
            get(server, tmp_path)
        assert names(tmp_path) == ["file.bin.part"]
        get(server, tmp_path)
        assert ranges(server)[-1] == "bytes=5000-"
    assert (tmp_path / "sub" / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [123_456, len(CONTENT)], ids=["cut off", "damaged"])
def test_a_file_that_another_program_left_cut_off_is_continued_and_a_damaged_one_replaced(tmp_path, kept):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file.bin").write_bytes(CONTENT[:kept] if kept < len(CONTENT) else OTHER)
    with serving({"/file.bin": CONTENT}) as server:
        get(server, tmp_path)
        assert ranges(server) == [f"bytes={kept}-" if kept < len(CONTENT) else None]
    assert (tmp_path / "sub" / "file.bin").read_bytes() == CONTENT


def test_another_file_of_the_same_size_is_removed(tmp_path):
    with serving({"/file.bin": OTHER}) as server, pytest.raises(UserError, match=r"its SHA256 is .*removed.*--url"):
        get(server, tmp_path)
    assert names(tmp_path) == []


def test_the_beginning_of_another_file_does_not_stay_for_good(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file.bin.part").write_bytes(OTHER[:500])
    with serving({"/file.bin": CONTENT}) as server:
        with pytest.raises(UserError, match=r"not file\.bin as published"):
            get(server, tmp_path)
        get(server, tmp_path)
    assert (tmp_path / "sub" / "file.bin").read_bytes() == CONTENT


def test_another_size_is_refused_before_it_is_got(tmp_path):
    page = b"<html>please log in</html>"
    with serving({"/file.bin": page}) as server:
        with pytest.raises(UserError, match=r"has a file of 26 bytes where file\.bin has 700,001: name another"):
            get(server, tmp_path)
        (tmp_path / "sub" / "file.bin.part").write_bytes(CONTENT[:26])  # as long as what the server has: 416
        with pytest.raises(UserError, match="has a file of 26 bytes"):
            get(server, tmp_path)
    assert names(tmp_path) == []


def test_a_mirror_takes_the_place_of_the_address(tmp_path):
    with serving({"/mirrored": CONTENT}) as server:
        with pytest.raises(UserError, match=r"file\.bin answered 404 \(Not Found\): try again later"):
            get(server, tmp_path)
        get(server, tmp_path, url=f"{server.url}/mirrored")
        assert server.requests[-1][0] == "/mirrored"
    with pytest.raises(UserError, match="begins with https://"):
        fetch(remote("http://x"), tmp_path, print, url="ftp://x")


def test_no_server_is_one_sentence_at_once(tmp_path):
    with serving({}) as server:
        address = server.url
    with pytest.raises(UserError, match=r"cannot be reached \(.*refused\): without a network, get file\.bin"):
        fetch(remote(address), tmp_path, print)
    with pytest.raises(UserError, match=r"nowhere\.invalid/file\.bin cannot be reached"):
        fetch(remote("http://nowhere.invalid"), tmp_path, print)


def test_a_server_that_falls_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with (
        serving({"/file.bin": CONTENT}, cuts=[1000], silent=True) as server,
        pytest.raises(UserError, match=r"\(.*timed out\), 1,000 of"),
    ):
        get(server, tmp_path, timeout=0.1)


def test_what_another_process_gets_is_left_alone(tmp_path):
    (tmp_path / "sub").mkdir()
    with serving({"/file.bin": CONTENT}) as server, (tmp_path / "sub" / "file.bin.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another process is getting file\.bin: wait"):
            get(server, tmp_path)
        assert server.requests == []


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "sub").write_text("a file")
    with serving({}) as server, pytest.raises(UserError, match=r"cannot write .*sub/file\.bin .*--path"):
        get(server, tmp_path)
