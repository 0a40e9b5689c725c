"""A run that is killed, terminated and continued is, byte for byte, the run that was not."""

import random
import shutil
import signal

import numpy as np
import orbax.checkpoint as ocp

from tests import commands

STEPS, LOG, VALIDATE = 120, 7, 30


def command(workdir):
    """Trains with all that has a state or a key: an augmentation, dropout, micro-batches, moments of the gradients, an
    average of the parameters, and a schedule that depends on the losses seen."""
    return [
        "train.py",
        "--config=configs/digits_vit.py:smoke",
        f"--config.steps={STEPS}",
        "--config.model.dropout_rate=0.1",
        "--config.data.batch_size=8",
        "--config.optim.name=adamw",
        "--config.optim.accumulation_steps=2",
        "--config.optim.ema_decay=0.9",
        "--config.optim.schedule=plateau",
        f"--config.logging.every={LOG}",
        f"--config.validation.every={VALIDATE}",
        "--config.checkpoint.every=20",
        f"--workdir={workdir}",
    ]


def signalled(process, workdir, number, last):
    """Sends the signal at a random one of the first `last` lines on steps of the run in this folder."""
    commands.reached(process, lambda line: line.endswith(f" in {workdir}\n"))  # it begins or goes on there
    for _ in range(random.randint(1, last)):
        commands.reached(process, lambda line: line.startswith("step "))
    process.send_signal(number)


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


def assert_all_there(workdir):
    """That what is compared is everything."""
    rows = (workdir / "metrics.csv").read_text().splitlines()
    assert len(set(rows)) == 1 + STEPS // LOG + 1 + STEPS // VALIDATE - 1  # header; the last row is both
    found = arrays(workdir)
    assert {path.split("/")[0] for path in found} == {"step", "params", "opt_state", "ema"}
    assert any(path.startswith("opt_state/plateau/") for path in found)
    assert any("/nu/" in path for path in found)
    averages = {path: value for path, value in found.items() if path.startswith("ema/")}
    assert all(value != found[path.replace("ema/", "params/", 1)] for path, value in averages.items())


# One test, not one a question: several might be given to different workers, and each would run the processes.
def test_killed_terminated_damaged_and_continued(tmp_path, tmp_path_factory):
    """Compiled as users' runs are, by two processes.

    The first trains `straight` without a stop, and then `run` until it is killed. The second goes on with `run`, is
    told to terminate, finishes it, and finishes `damaged`, a copy of `straight` with a bit of its newest checkpoint
    flipped.
    """
    cache, variables = commands.compiled_folder(tmp_path_factory), commands.as_users_compile()
    straight, run, damaged = (tmp_path / name for name in ("straight", "run", "damaged"))
    first = commands.start_all(cache, [command(straight), command(run)], **variables)
    signalled(first, run, signal.SIGKILL, 9)
    _, errors = first.communicate()
    assert first.returncode == -signal.SIGKILL, errors
    assert_all_there(straight)
    shutil.copytree(straight, damaged)
    steps, broken, content = flip_a_bit(damaged)

    second = commands.start_all(cache, [command(run), command(run), command(damaged)], **variables)
    signalled(second, run, signal.SIGTERM, 6)  # long before the last line
    terminated, last, repaired = commands.outcomes(second)
    assert [of.returncode for of in (terminated, last, repaired)] == [0, 0, 0], (terminated, last, repaired)
    step = terminated.stdout.split("stopped and saved at step ")[1].split(":")[0]
    assert 0 < int(step) < STEPS
    assert f"continuing at step {step}:" in last.stdout
    assert "warning" not in last.stdout + last.stderr
    assert_same_run(run, straight)

    # A flipped bit has cost one checkpoint and nothing else.
    *_, before, newest = steps
    assert f"warning: checkpoint {newest} is damaged: {broken}" in repaired.stdout
    assert f"continuing at step {before}:" in repaired.stdout
    assert (damaged / "damaged" / broken.relative_to(damaged / "checkpoints")).read_bytes() == content
    assert_same_run(damaged, straight)
