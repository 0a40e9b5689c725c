"""Rows at Weights & Biases, which a stand-in records: each once, whatever happens."""

import json
import sys
import types

import pytest

from jattn.config import Config, LoggingConfig
from jattn.errors import UserError
from jattn.training.metrics import Records
from jattn.training.wandb_log import check_wandb


class StandIn(types.ModuleType):
    """The part of the package that is used. `rows` are what the server has: id -> step -> values.

    Online, as the real one does, a resumed run goes on behind the last step of the server, and steps before that are
    ignored; offline it knows of no other session.
    """

    def __init__(self):
        super().__init__("wandb")
        self.rows, self.ignored, self.inits, self.codes = {}, [], [], []

    def init(self, **options):
        self.inits.append(options)
        return StandInRun(self, options)


class StandInRun:
    def __init__(self, package, options):
        self.package, self.rows = package, package.rows.setdefault(options["id"], {})
        self.step = max(self.rows, default=-1) + 1 if options["mode"] == "online" else 0

    def log(self, values, *, step, commit):
        assert commit
        if step < self.step or step in self.rows:
            self.package.ignored.append(step)
            return
        self.rows[step], self.step = values, step + 1

    def finish(self, exit_code):
        self.package.codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    package = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


def config(mode="online", seed=0):
    return Config(seed=seed, steps=9, logging=LoggingConfig(tensorboard=False, wandb=mode, wandb_project="spans"))


def write(records, *steps):
    for step in steps:
        records.write(step, {"epoch": step / 4, "train/loss": 1.0 / step, "valid/loss": None}, {"seconds": 2.0 * step})


def expected(*steps):
    return {step: {"epoch": step / 4, "train/loss": 1.0 / step, "timing/seconds": 2.0 * step} for step in steps}


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_no_row_is_lost_or_doubled_over_resumes(wandb, tmp_path, mode):
    with Records(tmp_path, config(mode), {}, 0) as records:
        write(records, 2, 4)
        positions = records.positions()
        write(records, 6)  # after the checkpoint: it will be written again
    for _ in range(2):
        with Records(tmp_path, config(mode), positions, 5) as records:
            write(records, 6, 8)
    (rows,) = wandb.rows.values()
    assert rows == expected(2, 4, 6, 8)
    assert wandb.ignored == []
    first, *others = wandb.inits
    assert {name: first[name] for name in ("project", "name", "mode", "dir")} == {
        "project": "spans", "name": tmp_path.name, "mode": mode, "dir": str(tmp_path),
    }  # fmt: skip
    assert first["config"]["logging.wandb_project"] == "spans"
    assert first["resume"] == ("allow" if mode == "online" else None)
    assert [other["id"] for other in others] == [first["id"]] * 2
    assert wandb.codes == [0, 0, 0]


def test_what_never_arrived_is_sent_again(wandb, tmp_path):
    with Records(tmp_path, config(), {}, 0) as records:
        write(records, 2, 4, 6)
        positions = records.positions()
    (rows,) = wandb.rows.values()
    del rows[4], rows[6]  # the machine went down before they were sent
    with Records(tmp_path, config(), positions, 7) as records:
        write(records, 8)
    assert rows == expected(2, 4, 6, 8)


def test_another_config_is_another_run_with_the_whole_history(wandb, tmp_path):
    with Records(tmp_path, config(), {}, 0) as records:
        write(records, 2, 4)
        positions = records.positions()
        write(records, 6)
    with Records(tmp_path, config(seed=1), positions, 5) as records:
        write(records, 6)
    assert list(wandb.rows.values()) == [expected(2, 4, 6), expected(2, 4, 6)]
    assert json.loads((tmp_path / "wandb.json").read_text())["id"] == wandb.inits[1]["id"]


def test_samples_go_with_their_step(wandb, tmp_path):
    with Records(tmp_path, config(), {}, 0) as records:
        records.write(3, {"train/loss": 1.0}, {}, ["some text", "more"])
        records.write(5, {}, {}, ["alone"])
    (rows,) = wandb.rows.values()
    assert rows == {3: {"train/loss": 1.0, "sample/0": "some text", "sample/1": "more"}, 5: {"sample/0": "alone"}}
    assert (tmp_path / "metrics.csv").read_text() == "step,train/loss\n3,1.0\n"


def test_a_failure_is_told(wandb, tmp_path):
    for error in (KeyboardInterrupt(), SystemExit(0), RuntimeError("diverged")):
        with pytest.raises(type(error)), Records(tmp_path, config(), {}, 0):
            raise error
    assert wandb.codes == [0, 0, 1]


def test_a_refusal_is_one_sentence(wandb, tmp_path, monkeypatch):
    def refuse(**options):
        raise RuntimeError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"\(api_key not configured \(no-tty\)\): log in with `wandb login`, or set"):
        Records(tmp_path, config(), {}, 0)


def test_modes(wandb, monkeypatch):
    for mode in ("off", "online", "offline"):
        check_wandb(mode)
    with pytest.raises(UserError, match=r"unknown logging\.wandb 'of': did you mean 'off'"):
        check_wandb("of")
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_wandb("off")
    with pytest.raises(UserError, match=r"needs the package wandb: install it \(pip install wandb\), or set"):
        check_wandb("offline")
