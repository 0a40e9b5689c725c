"""Several processes train the model that one does."""

import os
import signal
import socket

import numpy as np
import pytest

from jattn import data
from jattn.data.digits import Digits
from jattn.errors import UserError
from jattn.evaluation import evaluate
from jattn.training import processes
from jattn.training.metrics import read_csv
from tests import commands

LINE = [
    "train.py",
    "--config=configs/digits_vit.py:smoke",
    "--config.steps=12",
    "--config.model.dropout_rate=0.1",
    "--config.optim.name=sgd",
    "--config.logging.tensorboard=False",
    "--config.data.batch_size=16",
    "--config.validation.every=6",
    "--config.checkpoint.every=3",
    "--config.logging.every=1",
    "--config.logging.attention_every=4",
]


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start(cache, workdir, *more):
    """Two processes of one device each."""
    address = f"localhost:{free_port()}"
    return [
        commands.start(
            cache, *LINE, f"--workdir={workdir}", "--distributed", *more,
            JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(number),
            XLA_FLAGS=commands.QUICK_TO_COMPILE,
        )
        for number in range(2)
    ]  # fmt: skip


def outcomes(both):
    try:
        ends = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()  # where one waits for the other
    assert [process.returncode for process in both] == [0, 0], ends
    return ends


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A run of two processes that was stopped and continued, and one of a single process with two devices."""
    base, cache = tmp_path_factory.mktemp("processes"), commands.compiled_folder(tmp_path_factory)
    both = start(cache, base / "two")
    for line in both[0].stdout:
        if line.startswith("step 4/"):
            os.kill(both[1].pid, signal.SIGTERM)  # the one that does not speak
            break
    (rest, _), (silent, _) = outcomes(both)
    (end, _), _ = outcomes(start(cache, base / "two"))
    devices = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {commands.QUICK_TO_COMPILE}"}
    process = commands.run(cache, *LINE, f"--workdir={base / 'one'}", **devices)
    assert process.returncode == 0, process.stderr
    return base, rest, silent, end


def test_where_one_is_stopped_all_stop_and_continue(story):
    _, rest, silent, end = story
    assert "stopped and saved at step" in rest
    assert "continuing at step" in end
    assert "step" not in silent


def test_they_train_what_one_process_with_their_devices_does(story):
    found, expected = (read_csv(story[0] / name / "metrics.csv") for name in ("two", "one"))
    assert found.keys() == expected.keys()
    assert "attention/block_0/entropy" in found
    for name, column in expected.items():
        assert [value is None for value in found[name]] == [value is None for value in column]
        values, numbers = ([value for value in row if value is not None] for row in (found[name], column))
        np.testing.assert_allclose(values, numbers, rtol=1e-5, err_msg=name)


def test_the_folder_is_as_one_process_leaves_it(story):
    two, one = ({path.relative_to(story[0] / name) for path in (story[0] / name).iterdir()} for name in ("two", "one"))
    assert two == one
    results = evaluate(story[0] / "two", checkpoint="newest", timed_batches=0)
    expected = evaluate(story[0] / "one", checkpoint="newest", timed_batches=0)
    assert results["measures"]["loss"] == pytest.approx(expected["measures"]["loss"], rel=1e-5)


def test_rows_of_a_batch_are_that_batch_divided():
    dataset = Digits()
    for make in (lambda *rows: data.train_batch(dataset, 3, 90, 16, *rows),
                 lambda *rows: data.eval_batch(dataset, "test", 22, 16, *rows)):  # fmt: skip
        whole, halves = make(), [make(slice(0, 8)), make(slice(8, 16))]
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), values)


def test_half_of_an_address_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES is set, so JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID must"):
        processes.join()


def test_without_a_cluster_it_says_what_to_set(monkeypatch):
    for name in processes.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"--distributed finds no other processes .* or set JAX_COORDINATOR_ADDRESS, "):
        processes.join()
