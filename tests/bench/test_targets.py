"""The goals: each can be measured, and whether one is reached is what the rows say."""

import os

import pytest

from jattn.__main__ import parser
from jattn.bench import table, targets
from jattn.bench.attention import Setting
from jattn.bench.peers import PEERS
from jattn.bench.targets import TARGETS, KernelTarget
from jattn.errors import UserError

SETTING = Setting(batch=1, heads=2, head_dim=4, length=9, causal=True)


@pytest.mark.parametrize("name", TARGETS)
def test_every_goal_names_what_there_is(name):
    target = TARGETS[name]
    assert target.peer in PEERS
    assert target.speed > 0
    makers = target.makers(None)
    case = dict(next(iter(makers)))
    assert case["implementation"] == "chosen"
    assert case["part"] == ("kernel" if isinstance(target, KernelTarget) else "step")


def rows_of(monkeypatch, ours, peer, target):
    def made(makers, repeats, rate):
        first, second = (dict(case) for case in makers)
        return [{"case": first, **ours}, {"case": second, **peer}]

    monkeypatch.setattr(targets, "measured_rows", made)
    return targets.target_rows("name", target, None, 1)


@pytest.mark.parametrize(
    ("speed", "scratch", "reached"), [(2.0, 4.0, True), (1.9, 9.0, False), (9.0, 3.9, False), (2.5, 4.5, True)]
)
def test_a_goal_is_reached_in_speed_and_in_scratch(monkeypatch, speed, scratch, reached):
    found = {"released": {"speed": speed, "speed_quartiles": [speed, speed], "scratch": scratch}}
    ours, peer = rows_of(monkeypatch, {"times_better_than": found}, {}, KernelTarget(2, 4, setting=SETTING))
    assert ours["target"] == {"speed": 2, "scratch": 4, "reached": reached}
    assert (ours["case"]["target"], "target" in peer) == ("name", False)


def test_a_goal_whose_side_failed_is_missed(monkeypatch):
    ours, _ = rows_of(monkeypatch, {"error": "out of memory"}, {}, KernelTarget(2, setting=SETTING))
    assert ours["target"]["reached"] is False


def test_a_goal_is_one_line_of_the_table(monkeypatch):
    times = {"milliseconds": 20.0, "milliseconds_quartiles": [19.0, 21.0], "scratch_bytes": 5e6}
    found = {"released": {"speed": 3.0, "speed_quartiles": [2.5, 3.5], "scratch": 2.0}}
    peer = {"milliseconds": 60.0, "milliseconds_quartiles": [59.0, 61.0], "scratch_bytes": 10e6}
    rows = rows_of(monkeypatch, {**times, "times_better_than": found}, peer, KernelTarget(2, 4, setting=SETTING))
    *_, header, _, line = table.markdown(rows).splitlines()
    shown = dict(zip(header.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))
    assert shown == {
        "target": "name",
        "mechanism": "softmax",
        "ms": "20.0",
        "peer": "released",
        "its ms": "60.0",
        "speed x peer": "3.00 (2.50 to 3.50)",
        "wanted speed": "2",
        "scratch MB": "5.0",
        "its scratch MB": "10.0",
        "scratch x peer": "2.0",
        "wanted scratch": "4",
        "reached": "NO",
    }
    failed = rows_of(monkeypatch, {"error": "out of memory"}, peer, KernelTarget(2, setting=SETTING))
    assert "| out of memory |" in table.markdown(failed)


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="did you mean 'neural'"):
        targets.run(parser().parse_args(["bench", "targets", "--only", "neurall"]))
    with pytest.raises(UserError, match="this process may use"):
        targets.use_cores(10**6)


def test_cores_are_kept_to():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system does not bind processes to cores")
    before = os.sched_getaffinity(0)
    try:
        targets.use_cores(0)
        assert os.sched_getaffinity(0) == before
        targets.use_cores(1)
        assert len(os.sched_getaffinity(0)) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_goal_is_measured(monkeypatch, tmp_path):
    pytest.importorskip("torch", reason="peers are in PyTorch: pip install -r requirements-bench.txt")
    tiny = {"easy": KernelTarget(1e-9, mechanism="neural", setting=SETTING), "hard": KernelTarget(1e9, setting=SETTING)}
    monkeypatch.setattr(targets, "TARGETS", tiny)
    argv = ["bench", "targets", "--threads=0", "--repeats=2", f"--out={tmp_path / 'o.json'}"]
    assert targets.run(parser().parse_args([*argv, "--only", "easy"])) == 0
    assert targets.run(parser().parse_args(argv)) == 1
