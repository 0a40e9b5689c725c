"""The loop: what it reads when, what it leaves out, how it stops. Exact resumption is in test_resume.py."""

import os
import shutil
import signal

import numpy as np
import pytest

from jattn import data
from jattn.data.digits import Digits
from jattn.errors import UserError
from jattn.evaluation import evaluate
from jattn.training import NonFiniteError, loop, setup, train
from jattn.training.checkpoint import Checkpoints
from jattn.training.journal import Journal
from jattn.training.metrics import read_csv
from jattn.training.parallel import Parallel
from jattn.training.validation import evaluate_split, evaluated_params
from tests import runs

pytestmark = pytest.mark.usefixtures("experiments_are_kept")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return runs.smoke_run(tmp_path_factory, "digits_vit")


def smoke():
    return runs.get_config("digits_vit", "smoke")


def stopped():
    """The config of runs that are stopped: by three steps in a row that are not finite, or by a signal."""
    config = smoke()
    config.max_nonfinite_steps = 3
    config.data.prefetch = 0  # batch n is made when it is asked for
    return config


def longer():
    config = smoke()
    config.steps = 16
    return config


def restored(folder, which="newest"):
    experiment = setup.build(smoke())
    checkpoints = Checkpoints(folder / "checkpoints", experiment.config.checkpoint, warn=pytest.fail, read_only=True)
    return experiment, *checkpoints.restore(experiment.parallel.abstract_state, which)


def test_the_folder_holds_what_was_promised(finished):
    names = {path.name for path in finished.iterdir()}
    expected = {"config.json", "metrics.csv", "timing.csv", "model.txt", "log.txt", "curves.png", "checkpoints"}
    assert expected <= names
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    log = (finished / "log.txt").read_text()
    assert log.count("attention: ") == 1
    assert "attention by " in log
    assert "beginning: 12 steps" in log


def test_rows_are_where_they_are_due(finished):
    metrics, timing = read_csv(finished / "metrics.csv"), read_csv(finished / "timing.csv")
    assert metrics["step"] == [4, 6, 8, 12]
    assert [value is not None for value in metrics["train/loss"]] == [True, False, True, True]
    assert [value is not None for value in metrics["valid/loss"]] == [False, True, False, True]
    assert metrics["epoch"] == [step * 16 / 1258 for step in metrics["step"]]
    assert timing["step"] == metrics["step"]
    assert timing["seconds"] == sorted(timing["seconds"])
    assert [value is not None for value in timing["steps_per_second"]] == [True, False, True, True]
    for column in ("validation_seconds", "inference_seconds_per_batch", "inference_seconds_per_example"):
        assert [value is not None for value in timing[column]] == [False, True, False, True]
    assert timing["inference_seconds_per_example"][3] * 16 == timing["inference_seconds_per_batch"][3]
    assert timing["inference_seconds_per_batch"][3] < timing["validation_seconds"][3]


def test_training_rows_are_means_over_the_steps_since_the_last_one(finished):
    """Against single steps by hand."""
    config = smoke()
    experiment = setup.build(config)
    state = experiment.parallel.init_state()
    sums = []
    for n in range(4):
        batch = data.train_batch(experiment.dataset, config.seed, n, config.data.batch_size)
        state, metrics = experiment.parallel.train_step(state, batch)
        sums.append([float(x) for x in metrics["loss"]])
    total, count = np.sum(np.float64(sums), axis=0)
    assert count == 4 * 16
    assert read_csv(finished / "metrics.csv")["train/loss"][0] == total / count


def test_validation_is_the_mean_over_the_batches_asked_for(finished):
    experiment, state, info = restored(finished)
    params = evaluated_params(state)
    sums = evaluate_split(experiment, params, "valid", batches=2)
    assert sums["loss"][1] == 2 * 16
    assert sums["loss"][0] / 32 == read_csv(finished / "metrics.csv")["valid/loss"][-1]
    assert evaluate_split(experiment, params, "valid")["accuracy"][1] == 180  # the last batch is padded
    assert evaluate_split(experiment, params, "valid", batches=99)["accuracy"][1] == 180
    assert info["journal"]["last"]["valid/loss"] == sums["loss"][0] / 32
    assert (info["step"], info["examples"]) == (12, 12 * 16)


def test_averaged_parameters_are_evaluated_where_there_are_some(finished):
    _, state, _ = restored(finished)
    assert evaluated_params(state) is state.params
    average = {"kernel": 3}
    assert evaluated_params(state.replace(ema=average)) is average


def test_a_step_is_dispatched_before_the_one_before_it_is_read(tmp_path, monkeypatch):
    order = []
    read, step = Journal.read, Parallel.train_step
    monkeypatch.setattr(Journal, "read", lambda self, n, m: (order.append(f"read {n}"), read(self, n, m))[1])
    monkeypatch.setattr(Parallel, "train_step", lambda self, s, b: (order.append("dispatch"), step(self, s, b))[1])
    train(smoke(), tmp_path / "run")
    assert order[:5] == ["dispatch", "dispatch", "read 1", "dispatch", "read 2"]
    at_validation = order.index("read 6")
    assert order[at_validation - 2 : at_validation + 3] == ["dispatch", "read 5", "read 6", "dispatch", "dispatch"]
    assert order[-3:] == ["dispatch", "read 11", "read 12"]


def test_a_finished_run_has_nothing_to_do(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    last = train(smoke(), tmp_path / "run")
    columns = read_csv(tmp_path / "run" / "metrics.csv")
    assert last == {name: column[-1] for name, column in columns.items()}
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before
    assert "nothing to do" in (tmp_path / "run" / "log.txt").read_text()


def test_an_allowed_change_continues_and_is_stored(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    train(longer(), tmp_path / "run", allow_config_change=True)
    assert read_csv(tmp_path / "run" / "metrics.csv")["step"] == [4, 6, 8, 12, 16]
    assert "warning: continuing with another config: steps: 12 -> 16" in (tmp_path / "run" / "log.txt").read_text()
    train(longer(), tmp_path / "run")


def test_validation_on_the_test_split_and_damaged_data_are_said(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Digits, "complaints", lambda self, final=False: ["9 are damaged"] if final else [])
    shutil.copytree(finished, tmp_path / "run")
    config = longer()
    config.validation.split = "test"
    last = train(config, tmp_path / "run", allow_config_change=True)
    experiment, state, _ = restored(tmp_path / "run")
    sums = evaluate_split(experiment, evaluated_params(state), "test", batches=2)
    assert last["valid/loss"] == sums["loss"][0] / sums["loss"][1]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "validation: on the test split" in log
    assert log.count("warning: 9 are damaged") == 1
    evaluate(tmp_path / "run", "valid")
    assert capsys.readouterr().err == "warning: 9 are damaged\n"
    config.validation.split = "train"
    with pytest.raises(UserError, match=r"unknown validation.split 'train': known: test, valid"):
        setup.build(config)


def test_a_restart_begins_anew(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    train(smoke(), tmp_path / "run", restart=True)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()
    assert (tmp_path / "run.old-1" / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()
    assert "beginning" in (tmp_path / "run" / "log.txt").read_text()


class Spoiled:
    """Makes the inputs of some training batches infinite where `train_batch` is called."""

    def __init__(self, monkeypatch, bad):
        make = data.train_batch

        def train_batch(dataset, seed, n, size, rows):
            batch = make(dataset, seed, n, size, rows)
            return batch | {"weight": batch["weight"] * np.float32(np.inf if n in bad else 1)}

        monkeypatch.setattr(data, "train_batch", train_batch)


def test_a_step_that_is_not_finite_is_left_out_and_named(tmp_path, monkeypatch):
    Spoiled(monkeypatch, {5})
    train(stopped(), tmp_path / "run")
    columns = read_csv(tmp_path / "run" / "metrics.csv")
    assert columns["train/voided_steps"] == [0, None, 1, 0]
    assert all(np.isfinite(loss) for loss in columns["train/loss"] if loss is not None)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("has been left out") == 1
    assert "step 6 has been left out: batch 5 gives a non-finite value in the loss and the gradient of block_0/" in log
    _, state, _ = restored(tmp_path / "run")
    assert int(state.step) == 12
    assert int(state.opt_state["learning_rate"].count) == 11


def test_too_many_in_a_row_stop_the_run_and_leave_the_last_checkpoint(tmp_path, monkeypatch):
    Spoiled(monkeypatch, {1, 7, 8, 9, 10, 11})
    with pytest.raises(NonFiniteError, match=r"stopped at step 10: 3 steps in a row .* batch 9 gives"):
        train(stopped(), tmp_path / "run")
    _, state, info = restored(tmp_path / "run")
    assert info["step"] == 6
    assert int(state.opt_state["learning_rate"].count) == 5


def test_steps_in_a_row_are_counted_across_an_interruption(tmp_path, monkeypatch):
    Spoiled(monkeypatch, {5, 6, 7})
    for _ in range(2):
        with pytest.raises(NonFiniteError, match="stopped at step 8: 3 steps in a row"):
            train(stopped(), tmp_path / "run")
    assert "continuing at step 6" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_finishes_the_step_and_saves(number, raised, finished, tmp_path, monkeypatch):
    make = data.train_batch

    def train_batch(dataset, seed, n, size, rows):
        if n == 2:
            os.kill(os.getpid(), number)
        return make(dataset, seed, n, size, rows)

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(data, "train_batch", train_batch)
        with pytest.raises(raised) as caught:
            train(stopped(), tmp_path / "run")
    if number == signal.SIGTERM:
        assert caught.value.code == 0
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert restored(tmp_path / "run")[2]["step"] == 3
    assert "stopped and saved at step 3: the same command continues" in (tmp_path / "run" / "log.txt").read_text()
    train(stopped(), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()


def test_a_second_signal_would_end_the_process(capfd):
    with loop.StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "once more ends the process at once" in capfd.readouterr().err


def test_a_shortened_csv_is_noticed(tmp_path, finished, capsys):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").write_text("")
    train(longer(), tmp_path / "run", allow_config_change=True)
    assert "metrics.csv is shorter than at checkpoint 12" in capsys.readouterr().out
    assert read_csv(tmp_path / "run" / "metrics.csv")["step"] == [16]
