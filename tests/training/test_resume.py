"""A run that is killed, terminated and continued is, byte for byte, the run that was not."""

import random
import shutil
import signal

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import commands

STEPS, LOG, VALIDATE = 120, 7, 30
CASES = {
    "plain": ["--config.model.dropout_rate=0.1"],
    "accumulation": ["--config.optim.accumulation_steps=2", "--config.optim.name=sgd"],
    "average": ["--config.optim.ema_decay=0.9", "--config.optim.schedule=plateau"],
}
"""Overrides of the smoke config of the digits, which has augmentation: dropout, micro-batches, an average of
the parameters, and a schedule that depends on the losses seen."""


def command(name, workdir):
    return [
        "train.py",
        "--config=configs/digits_vit.py:smoke",
        f"--config.steps={STEPS}",
        "--config.data.batch_size=8",
        f"--config.logging.every={LOG}",
        f"--config.validation.every={VALIDATE}",
        "--config.checkpoint.every=20",
        f"--workdir={workdir}",
        *CASES[name],
    ]


def variables(name):
    """One case is compiled as users' runs are, the others quickly."""
    return commands.as_users_compile() if name == "plain" else {}


def interrupted(cache, name, workdir, number, first, last):
    """Runs until a random one of its first lines on steps, then sends the signal: code, output, errors."""
    process = commands.start(cache, *command(name, workdir), **variables(name))
    left = random.randint(first, last)
    output = []
    for line in process.stdout:
        output.append(line)
        left -= line.startswith("step ")
        if left == 0:
            process.send_signal(number)
            break
    rest, errors = process.communicate()
    return process.returncode, "".join(output) + rest, errors


class Story:
    """What one case's processes did: `straight` without a stop; `run` killed, terminated and finished; of one case also
    `damaged`, a copy of it whose newest checkpoint was damaged before it was finished. One process finishes them all.
    """

    def __init__(self, cache, name, folder):
        self.straight, self.run, self.damaged = folder / "straight", folder / "run", folder / "damaged"
        self.killed = interrupted(cache, name, self.run, signal.SIGKILL, 1, 9)
        # Later than step 20, which is saved, and before the last.
        self.terminated = interrupted(cache, name, self.run, signal.SIGTERM, 3, 6)
        shutil.copytree(self.run, self.damaged)
        self.steps, self.broken, self.content = flip_a_bit(self.damaged)
        workdirs = [self.straight, self.run] + [self.damaged] * (name == "plain")
        lines = [command(name, workdir) for workdir in workdirs]
        self.first, self.last, *self.repaired = commands.run_all(cache, lines, **variables(name))


def flip_a_bit(workdir):
    """Changes the largest file of a run's newest checkpoint: all checkpoints' steps, its path and new content."""
    steps = sorted(int(entry.name) for entry in (workdir / "checkpoints").iterdir())
    broken = max(
        (workdir / "checkpoints" / str(steps[-1]) / "state").rglob("d/*"), key=lambda path: path.stat().st_size
    )
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    return steps, broken, bytes(content)


def arrays(workdir):
    """Every array of the last checkpoint by its name, as bytes with its dtype and shape."""
    place = workdir / "checkpoints" / str(STEPS) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        names = reader.metadata(place).item_metadata.tree
        as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        tree = reader.restore(place, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in tree.items()}


def assert_same_run(workdir, other):
    assert (workdir / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    found, expected = arrays(workdir), arrays(other)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == set()


def assert_all_there(name, workdir):
    """That what is compared is everything, with what the case has besides."""
    rows = (workdir / "metrics.csv").read_text().splitlines()
    assert len(set(rows)) == 1 + STEPS // LOG + 1 + STEPS // VALIDATE - 1  # header; the last row is both
    found = arrays(workdir)
    groups = {path.split("/")[0] for path in found}
    assert groups == {"step", "params", "opt_state"} | ({"ema"} if name == "average" else set())
    assert any(path.startswith("opt_state/plateau/") for path in found) == (name == "average")
    assert any("/nu/" in path for path in found) == (name != "accumulation")  # sgd keeps no squares
    averages = {path: value for path, value in found.items() if path.startswith("ema/")}
    assert all(value != found[path.replace("ema/", "params/", 1)] for path, value in averages.items())


def assert_repaired(story):
    """That a flipped bit has cost one checkpoint and nothing else."""
    (repaired,) = story.repaired
    assert repaired.returncode == 0, repaired.stderr
    *_, before, newest = story.steps
    assert f"warning: checkpoint {newest} is damaged: {story.broken}" in repaired.stdout
    assert f"continuing at step {before}:" in repaired.stdout
    kept = story.damaged / "damaged" / story.broken.relative_to(story.damaged / "checkpoints")
    assert kept.read_bytes() == story.content
    assert_same_run(story.damaged, story.straight)


# One test a case, not one a question: several might be given to different workers, and each would run the processes.
@pytest.mark.parametrize("name", CASES)
def test_killed_terminated_and_continued(name, tmp_path, tmp_path_factory):
    story = Story(commands.compiled_folder(tmp_path_factory), name, tmp_path)
    assert story.first.returncode == 0, story.first.stderr
    assert_all_there(name, story.straight)
    assert story.killed[0] == -signal.SIGKILL, story.killed
    code, output, errors = story.terminated
    assert code == 0, errors
    step = output.split("stopped and saved at step ")[1].split(":")[0]
    assert 0 < int(step) < STEPS
    assert story.last.returncode == 0, story.last.stderr
    assert f"continuing at step {step}:" in story.last.stdout
    assert "warning" not in story.last.stdout + story.last.stderr
    assert_same_run(story.run, story.straight)
    if name == "plain":
        assert_repaired(story)
