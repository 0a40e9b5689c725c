"""Several processes train the model that one does."""

import signal
import socket

import numpy as np
import pytest

from jattn import cli, data
from jattn.data.digits import Digits
from jattn.errors import UserError
from jattn.evaluation import evaluate
from jattn.training import processes, train
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


def start(cache, workdir, number, address):
    """One process of two, with a device of its own, that trains and, when it has been stopped, goes on."""
    line = [*LINE, f"--workdir={workdir}"]
    return commands.start_all(
        cache, [[*line, "--distributed"], line],
        JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(number),
        XLA_FLAGS=commands.QUICK_TO_COMPILE,
    )  # fmt: skip


# One test, not one a question: several might be given to different workers, and each would run the processes.
def test_two_are_stopped_and_continue_and_train_what_one_does(tmp_path, tmp_path_factory):
    cache, address = commands.compiled_folder(tmp_path_factory), f"localhost:{free_port()}"
    both = [start(cache, tmp_path / "two", number, address) for number in range(2)]
    try:
        commands.reached(both[0], lambda line: line.startswith("step 4/"))
        both[1].send_signal(signal.SIGTERM)  # the one that does not speak
        ends = [commands.outcomes(process, timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()  # where one waits for the other
    assert [[of.returncode for of in end] for end in ends] == [[0, 0]] * 2, ends
    (stopped, continued), silent = ends
    assert "stopped and saved at step" in stopped.stdout
    assert "continuing at step" in continued.stdout
    assert not any("step" in of.stdout for of in silent)

    train(cli.parse_train([*LINE]).config, tmp_path / "one", quiet=True)
    found, expected = (read_csv(tmp_path / name / "metrics.csv") for name in ("two", "one"))
    assert found.keys() == expected.keys()
    assert "attention/block_0/entropy" in found
    for name, column in expected.items():
        assert [value is None for value in found[name]] == [value is None for value in column]
        values, numbers = ([value for value in row if value is not None] for row in (found[name], column))
        np.testing.assert_allclose(values, numbers, rtol=1e-5, err_msg=name)

    two, one = ({path.relative_to(tmp_path / name) for path in (tmp_path / name).iterdir()} for name in ("two", "one"))
    assert two == one
    losses = [
        evaluate(tmp_path / name, checkpoint="newest", timed_batches=0)["measures"]["loss"] for name in ("two", "one")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


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
