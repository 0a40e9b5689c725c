"""Processes of a comparison: what is finished is kept, what fails is told, a stop loses nothing."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jattn import config_json
from jattn.compare import runs
from jattn.compare.grid import cells, parse_axis
from jattn.errors import UserError
from tests import commands

STUB = """
import json, pathlib, sys
folder, record, config_hash = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
folder.mkdir(exist_ok=True)
with (folder.parent / "begun").open("a") as file:
    file.write(folder.name + "\\n")
kind = "KIND"
if kind == "finish":
    results = {"config_hash": config_hash, "split": "test", "checkpoint": "best", "step": 12, "measures": {"loss": 0.5}}
    (folder / "results.json").write_text(json.dumps(results))
    record.write_text(json.dumps({"exit_code": 0, "config_hash": config_hash, "seconds": 1.0}))
elif kind == "diverge":
    print("error: training stopped at step 7")
    record.write_text(json.dumps({"exit_code": 3, "config_hash": config_hash}))
    sys.exit(3)
elif kind == "mistake":
    print("error: another process is training")
    record.write_text(json.dumps({"exit_code": 2, "config_hash": config_hash}))
    sys.exit(2)
elif kind == "crash":
    print("Traceback ...")
    raise RuntimeError("out of luck")
elif kind == "killed":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
else:
    import time
    time.sleep(60)
"""


def stub(kinds):
    """A process for each job that does as `kinds` says of its cell and seed."""

    def command(job):
        text = STUB.replace("KIND", kinds.get((job.cell.name, job.seed), "finish"))
        return [sys.executable, "-c", text, str(job.folder), str(job.record), config_json.config_hash(job.config)]

    return command


@pytest.fixture
def make(tmp_path):
    def made(seeds=2, flags=(), split="test"):
        grid = cells("configs/digits_vit.py:smoke", [parse_axis("arg=softmax,kvt")], flags)
        return runs.make_jobs(grid, range(seeds), tmp_path, split, "best")

    return made


def run(jobs, kinds=None, at_once=1):
    said = []
    found = runs.run_all(jobs, at_once, stub(kinds or {}), said.append, lambda outcome: outcome.failure or "fine")
    return found, said


def begun(jobs):
    return {job.cell.name: (job.folder.parent / "begun").read_text().split() for job in jobs}


def test_seed_by_seed_with_one_line_each(make, tmp_path):
    jobs = make()
    found, said = run(jobs)
    assert [(o.job.cell.name, o.job.seed) for o in found] == [("softmax", 0), ("kvt", 0), ("softmax", 1), ("kvt", 1)]
    assert [o.measures for o in found] == [{"loss": 0.5}] * 4
    assert jobs[3].folder == tmp_path / "kvt" / "seed1"
    assert [line.partition("  (")[0] for line in said] == [
        "[1/4] softmax seed 0: fine", "[2/4] kvt seed 0: fine", "[3/4] softmax seed 1: fine", "[4/4] kvt seed 1: fine",
    ]  # fmt: skip
    assert "left" in said[0]
    assert "left" not in said[3]


def test_failures_are_outcomes_and_only_some_are_tried_again(make):
    kinds = {("softmax", 0): "diverge", ("kvt", 0): "crash", ("softmax", 1): "killed", ("kvt", 1): "mistake"}
    found, said = run(make(), kinds, at_once=2)
    reasons = {(o.job.cell.name, o.job.seed): o.failure for o in found}
    assert reasons == {
        ("softmax", 0): "training stopped at step 7",
        ("kvt", 0): "RuntimeError: out of luck",
        ("softmax", 1): "the process was ended by SIGKILL",
        ("kvt", 1): "another process is training",
    }
    assert len(said) == 4
    again, said = run(make())
    assert said[0] == "1 of 4 runs are finished"
    assert [o.failure for o in again] == ["training stopped at step 7", "", "", ""]
    assert begun(make()) == {"softmax": ["seed0", "seed1", "seed1"], "kvt": ["seed0", "seed1", "seed0", "seed1"]}


def test_finished_runs_are_kept_and_more_may_be_asked_for(make):
    run(make())
    found, said = run(make(seeds=3))
    assert said[0] == "4 of 6 runs are finished"
    assert len(said) == 3
    assert all(not o.failure for o in found)
    assert begun(make()) == {"softmax": ["seed0", "seed1", "seed2"], "kvt": ["seed0", "seed1", "seed2"]}


def test_another_split_or_config_is_not_what_was_measured(make):
    run(make())
    assert [runs.outcome(job) for job in make(split="valid")] == [None] * 4
    assert [runs.outcome(job) for job in make(flags=["--config.steps=9"])] == [None] * 4


def test_a_folder_with_runs_of_another_config(make):
    job = make()[0]
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(config_json.to_json(job.config))
    make()
    with pytest.raises(UserError, match=r"softmax/seed0 holds a run of another config \(steps: 12 -> 9\)"):
        make(flags=["--config.steps=9"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_all_processes_and_loses_nothing(make, number):
    jobs = make()
    waits = {("kvt", 0): "wait", ("softmax", 1): "wait"}

    def stop():
        while not (jobs[2].folder / "..").resolve().is_dir() or not jobs[2].folder.is_dir():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    said = []
    with pytest.raises(KeyboardInterrupt):
        runs.run_all(jobs, 2, stub(waits), said.append, str)
    thread.join()
    assert said[-1] == "stopped with 1 of 4 runs finished: the same command continues"
    found, said = run(make())
    assert [o.failure for o in found] == [""] * 4
    assert len(said) == 4


COMPARISON = """
import pathlib, sys
from jattn.compare import runs
from jattn.compare.grid import cells, parse_axis

grid = cells("configs/digits_vit.py:smoke", [parse_axis("arg=softmax,kvt")], [])
jobs = runs.make_jobs(grid, range(1), pathlib.Path(sys.argv[1]), "test", "best")
runs.run_all(jobs, 2, lambda job: [sys.executable, "-c", sys.argv[2], str(job.folder)], print, str)
"""

WORKER = """
import pathlib, signal, sys, time
from jattn.compare.worker import stop_without_parent

def stop(number, frame):
    (folder / "stopped").touch()
    sys.exit()

folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, stop)
stop_without_parent()
folder.mkdir()
time.sleep(60)
"""


def test_a_comparison_that_is_killed_leaves_no_process_at_work(tmp_path):
    """SIGKILL, or a machine short of memory, leaves it no time to end them."""
    comparison = subprocess.Popen([sys.executable, "-c", COMPARISON, str(tmp_path), WORKER], cwd=commands.ROOT)
    folders = [tmp_path / name / "seed0" for name in ("softmax", "kvt")]
    until(lambda: all(folder.is_dir() for folder in folders))
    assert not any((folder / "stopped").exists() for folder in folders)
    comparison.kill()
    comparison.wait()
    until(lambda: all((folder / "stopped").exists() for folder in folders))


def test_a_worker_watches_its_standard_input(make):
    command = runs.worker_command(make()[0])
    worker = subprocess.Popen(command, cwd=commands.ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    worker.stdin.close()
    assert worker.wait() == -signal.SIGTERM  # before it had trained


def until(reached, seconds=50):
    """Waits for what other processes do; an error where they do not."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def test_processes_and_gpus(make, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    environments = []
    monkeypatch.setattr(
        runs, "_begin", lambda command, job, environment, end: environments.append(dict(environment)) or Ended()
    )
    run(make(), at_once=2)
    assert sorted(environment["CUDA_VISIBLE_DEVICES"] for environment in environments[:2]) == ["4", "7"]
    environments.clear()
    run(make(), at_once=1)
    assert environments == [{}] * 4
    with pytest.raises(UserError, match="--jobs=3 is more than the 2 GPUs"):
        run(make(), at_once=3)
    with pytest.raises(UserError, match="--jobs=0"):
        run(make(), at_once=0)


class Ended:
    """A process that has ended already."""

    def poll(self):
        return 1

    def wait(self):
        return 1

    terminate = wait
