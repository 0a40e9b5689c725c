"""Arrays kept on disk: made once, checked, made anew when they must be."""

import json
import runpy
import sys

import numpy as np
import pytest

from jattn.data.cache import META, cached
from jattn.errors import UserError
from tests import commands


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("JATTN_CACHE", str(tmp_path))
    return tmp_path / "data"


class Maker:
    """Counts how often it is asked."""

    def __init__(self, value=7):
        self.value, self.calls = value, 0

    def __call__(self, writer):
        self.calls += 1
        pieces = (np.stack([rows, rows + self.value], 1) for rows in (np.arange(3), np.arange(3, 6)))
        assert writer.write("pairs", pieces, np.uint16) == 6
        assert writer.write("none", [], np.float32) == 0
        return {"calls": self.calls}


def entry(make, **fingerprint):
    return cached("numbers", {"path": "here"}, fingerprint, make)


def folder_of(home):
    (folder,) = (path for path in home.iterdir() if path.is_dir())
    return folder


def test_made_once_and_mapped(home):
    make = Maker()
    for _ in range(2):
        arrays, facts = entry(make, size=3)
        assert isinstance(arrays["pairs"], np.memmap)
        assert arrays["pairs"].dtype == np.uint16
        np.testing.assert_array_equal(arrays["pairs"], np.arange(6)[:, None] + [0, 7])
        assert arrays["none"].shape == (0,)
        assert facts == {"calls": 1}
    assert make.calls == 1
    assert [path.name for path in home.iterdir() if "part" in path.name] == []


def test_another_fingerprint_replaces_the_entry(home):
    old = entry(Maker(7), size=3)
    new = entry(Maker(9), size=4)
    assert new.arrays["pairs"][0, 1] == 9
    assert old.arrays["pairs"][0, 1] == 7  # whoever has mapped the old entry keeps it
    assert len([path for path in home.iterdir() if path.is_dir()]) == 1


def test_other_identities_lie_beside_each_other(home):
    cached("numbers", {"path": "here"}, {}, Maker(7))
    cached("numbers", {"path": "there"}, {}, Maker(9))
    assert len([path for path in home.iterdir() if path.is_dir()]) == 2
    assert entry(Maker(0)).arrays["pairs"][0, 1] == 7


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "pairs.bin"),
        lambda folder: (folder / "pairs.bin").write_bytes(b"\0" * 20),
        lambda folder: (folder / "pairs.bin").unlink(),
        lambda folder: (folder / META).unlink(),
        lambda folder: (folder / META).write_text("{"),
        lambda folder: (folder / META).write_text("[]"),
        lambda folder: (folder / META).write_text(json.dumps({"format": 1})),
        lambda folder: (folder / META).write_text((folder / META).read_text().replace('"format": 1', '"format": 0')),
    ],
)
def test_what_is_damaged_or_of_another_format_is_made_anew(home, damage):
    entry(Maker(7))
    damage(folder_of(home))
    make = Maker(7)
    np.testing.assert_array_equal(entry(make).arrays["pairs"][:, 1], np.arange(7, 13))
    assert make.calls == 1


def test_leftovers_of_a_killed_process_go(home):
    entry(Maker())
    folder = folder_of(home)
    left = folder.with_name(f"{folder.name}.part-123")
    left.mkdir()
    (folder / META).unlink()
    entry(Maker())
    assert not left.exists()


def test_a_maker_that_fails_leaves_nothing(home):
    def fails(writer):
        writer.write("pairs", [np.arange(3)], np.uint8)
        raise UserError("the file is bad")

    with pytest.raises(UserError, match="the file is bad"):
        entry(fails)
    assert [path for path in home.iterdir() if path.is_dir()] == []
    assert entry(Maker()).facts == {"calls": 1}


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JATTN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write the cache .*numbers-.* JATTN_CACHE"):
        entry(Maker())


WORK = """
import os, sys, time
import numpy as np
from pathlib import Path
from jattn.data.cache import cached

here = Path(sys.argv[1])

def make(writer):
    with (here / "log").open("a") as log:
        log.write("made ")
    while len(list(here.glob("*.started"))) < 2:  # the other process is at the lock, or about to be
        time.sleep(0.01)
    writer.write("row", (np.arange(n, n + 10) for n in range(0, 1000, 10)), np.uint16)
    return {}

(here / f"{os.getpid()}.started").touch()
print(int(cached("row", {}, {}, make).arrays["row"].sum()))
"""


def test_two_processes_at_once_do_the_work_once(tmp_path, monkeypatch, capsys):
    """This one, and another one."""
    script = tmp_path / "work.py"
    script.write_text(WORK)
    other = commands.start(tmp_path, str(script), str(tmp_path), PYTHONPATH=str(commands.ROOT))
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    runpy.run_path(str(script))
    assert capsys.readouterr().out == other.communicate()[0] == "499500\n"
    assert (tmp_path / "log").read_text() == "made "
