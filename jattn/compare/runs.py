"""The runs of a comparison: which are finished, and processes that do the others, some at a time.

DIR/CELL/seedN is an ordinary run's folder; beside it lie seedN.log, what its process printed, and seedN.json, how that
ended (see `jattn.compare.worker`).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jattn import config_json
from jattn.cli import NOT_FINITE
from jattn.compare.grid import Cell, configured
from jattn.config import Config
from jattn.errors import UserError
from jattn.evaluation.evaluate import RESULTS
from jattn.training.interrupt import StopRequest
from jattn.training.progress import duration
from jattn.training.run import CONFIG, read_config

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Job:
    """One run of the grid.

    Attributes:
      cell, seed: which.
      folder: of the run.
      config: of the run, seed included.
      split, checkpoint: what is evaluated, as eval.py names it.
    """

    cell: Cell
    seed: int
    folder: Path
    config: Config
    split: str
    checkpoint: str

    @property
    def name(self) -> str:
        """For progress and reports."""
        return f"{self.cell.name} seed {self.seed}"

    @property
    def record(self) -> Path:
        """How its process ended."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def log(self) -> Path:
        """What its process printed."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def train_flags(self) -> list[str]:
        """The flags of the train.py command that does the same."""
        flags = (f"--config={self.cell.argument}", *self.cell.flags, f"--config.seed={self.seed}")
        return [*flags, f"--workdir={self.folder}"]


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
      job: which.
      measures: of the evaluation; empty if the run failed.
      step: of the checkpoint that was evaluated; None if the run failed.
      failure: why it failed, in one sentence; "" if it did not.
      record: what the worker recorded: commit, machine, versions, seconds.
    """

    job: Job
    measures: Mapping[str, float]
    step: int | None
    failure: str
    record: Mapping[str, Any]


def make_jobs(cells: Sequence[Cell], seeds: Iterable[int], folder: Path, split: str, checkpoint: str) -> list[Job]:
    """All runs, seed by seed, so that a stop leaves all cells with as many.

    Raises:
      UserError: the folder holds such a run of another config.
    """
    jobs = [
        Job(
            cell,
            seed,
            folder / cell.folder / f"seed{seed}",
            configured(cell.argument, (*cell.flags, f"--config.seed={seed}")),
            split,
            checkpoint,
        )
        for seed in seeds
        for cell in cells
    ]
    for job in jobs:
        if not (job.folder / CONFIG).exists():
            continue
        changes = config_json.differences(read_config(job.folder), job.config)
        if changes:
            raise UserError(
                f"{job.folder} holds a run of another config ({'; '.join(changes)}): choose another --workdir, or "
                "repeat the command that made it"
            )
    return jobs


def outcome(job: Job) -> Outcome | None:
    """How a job ended; None if it is still to be done.

    A run that did not stay finite is a result and not done again; what failed for another reason may succeed the next
    time.
    """
    record = _read(job.record)
    config = config_json.config_hash(job.config)
    results = _read(job.folder / RESULTS)
    wanted = {"config_hash": config, "split": job.split, "checkpoint": job.checkpoint}
    if all(results.get(name) == value for name, value in wanted.items()):
        return Outcome(job, results["measures"], results["step"], "", record)
    if record.get("exit_code") == NOT_FINITE and record.get("config_hash") == config:
        return failed(job, NOT_FINITE)
    return None


def failed(job: Job, code: int) -> Outcome:
    """The outcome of a job whose process ended with this code, or by signal -code, without a result."""
    lines = [line.strip() for line in _text(job.log).splitlines() if line.strip()]
    reason = lines[-1].removeprefix("error: ") if lines else "nothing was printed"
    if code < 0:
        reason = f"the process was ended by {signal.Signals(-code).name}"
    return Outcome(job, {}, None, reason, _read(job.record))


def worker_command(job: Job) -> list[str]:
    """The process that does a job."""
    # As a module of this installation, wherever the project's folder is.
    worker = [sys.executable, "-m", "jattn.compare.worker"]
    return [*worker, str(job.record), job.split, job.checkpoint, *job.train_flags()]


def page_command(folder: Path) -> list[str]:
    """The process that writes a comparison's page: it may use the devices, and leaves them when it ends."""
    return [sys.executable, "-m", "jattn", "report", f"--comparison={folder}"]


def run_all(
    jobs: Sequence[Job],
    at_once: int,
    command: Callable[[Job], list[str]],
    say: Callable[[str], None],
    describe: Callable[[Outcome], str],
) -> list[Outcome]:
    """Does what has not been done, and returns what became of all jobs.

    Ctrl-C and SIGTERM let every process save and end, and then raise KeyboardInterrupt.

    Args:
      jobs: in the order in which they are begun.
      at_once: processes at a time. With several, and GPUs, each has one GPU.
      command: the process of a job, such as `worker_command`.
      say: is told of each job that has ended.
      describe: an outcome in few words.

    Raises:
      UserError: see `places`.
    """
    found = {job.folder: outcome(job) for job in jobs}
    waiting = [job for job in jobs if found[job.folder] is None]
    done, total = len(jobs) - len(waiting), len(jobs)
    environments = places(at_once)
    if done:
        say(f"{done} of {total} runs are finished")
    start, ended = time.perf_counter(), 0
    with StopRequest() as stop, contextlib.ExitStack() as stack:
        running: dict[int, tuple[Job, subprocess.Popen]] = {}
        end, held = os.pipe()  # ends when this process does: it alone holds the side that could be written to
        stack.callback(os.close, held)
        stack.callback(os.close, end)
        stack.callback(_end, running)
        while (waiting and stop.signal is None) or running:
            for place in range(at_once):
                if waiting and place not in running and stop.signal is None:
                    job = waiting.pop(0)
                    running[place] = job, _begin(command(job), job, environments[place], end)
            time.sleep(_POLL_SECONDS)
            if stop.signal is not None:
                _end(running)
            for place, (job, process) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[place]
                found[job.folder] = ended_as = outcome(job)
                if ended_as is None and stop.signal is not None:
                    continue
                found[job.folder] = ended_as = ended_as or failed(job, code)
                done, ended = done + 1, ended + 1
                left = (total - done) * (time.perf_counter() - start) / ended
                rest = f"  ({duration(left)} left)" if done < total else ""
                say(f"[{done}/{total}] {job.name}: {describe(ended_as)}{rest}")
        if stop.signal is not None:
            say(f"stopped with {done} of {total} runs finished: the same command continues")
            raise KeyboardInterrupt
    return [found[job.folder] for job in jobs]


def _begin(command: list[str], job: Job, environment: Mapping[str, str], end: int) -> subprocess.Popen:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    if _read(job.record).get("exit_code") != 0:  # else it is only evaluated again
        job.record.unlink(missing_ok=True)
    with job.log.open("w") as log:
        # In a session of its own: Ctrl-C on the terminal reaches this process alone, which asks the others to stop.
        return subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=end,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(running: Mapping[int, tuple[Job, subprocess.Popen]]) -> None:
    """Asks every process to save and end, and waits until they have."""
    for _, process in running.values():
        process.terminate()
    for _, process in running.values():
        process.wait()


def places(at_once: int) -> list[dict[str, str]]:
    """The environment of each of the processes that run at a time.

    Raises:
      UserError: more processes than GPUs, or less than one.
    """
    names = gpus()
    if at_once < 1:
        raise UserError(f"--jobs={at_once} must be at least 1")
    if at_once == 1 or not names:
        return [{}] * at_once
    if at_once > len(names):
        raise UserError(f"--jobs={at_once} is more than the {len(names)} GPUs there are: each process needs one")
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in names[:at_once]]


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that processes may use, found without taking memory of any."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(folder.iterdir())))] if folder.is_dir() else []


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
