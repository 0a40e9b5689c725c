"""A candidate in a process of its own: its figures, its own clock, its failures, its end."""

import multiprocessing
import os
import time

import pytest

from jattn.bench.apart import apart
from jattn.bench.candidate import Candidate, measure
from jattn.errors import UserError


def napping(seconds, path):
    """Takes its time, and says which process it is."""

    def run():
        path.write_text(str(os.getpid()))
        time.sleep(seconds)

    return Candidate(run, scratch_bytes=3, items=7)


def refusing(kind, text):
    raise kind(text)


def failing_when_called(text):
    return Candidate(lambda: refusing(RuntimeError, text), 0)


def test_it_runs_and_is_timed_elsewhere(tmp_path):
    found = measure({"far": lambda: apart(napping, 0.05, tmp_path / "far")}, 2)["far"]
    assert (found.candidate.scratch_bytes, found.candidate.items) == (3, 7)
    assert len(found.timing.seconds) == 2
    assert min(found.timing.seconds) >= 0.05
    process = int((tmp_path / "far").read_text())
    assert process != os.getpid()
    del found
    deadline = time.monotonic() + 30
    while process in {child.pid for child in multiprocessing.active_children()}:
        assert time.monotonic() < deadline, "its process outlives it"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (UserError, "UserError: no such thing"),
        (MemoryError, "out of memory: no such thing"),
        (NotImplementedError, "RuntimeError: no such thing"),
    ],
)
def test_what_fails_there_is_a_row_here(raised, error):
    assert measure({"far": lambda: apart(refusing, raised, "no such thing")}, 1)["far"].error == error


def test_what_fails_when_called_is_a_row_too():
    assert measure({"far": lambda: apart(failing_when_called, "at last")}, 1)["far"].error == "RuntimeError: at last"
