"""Running means and csv files: exact, and the same however often they are interrupted."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event

from jattn.config import Config, LoggingConfig
from jattn.errors import UserError
from jattn.training.metrics import CsvLog, Records, RunningMeans, ordered, read_csv


def test_means_weigh_by_count():
    means = RunningMeans()
    means.add({"loss": (np.float32(6.0), np.float32(2.0)), "accuracy": (1, 2)})
    means.add({"loss": (np.float32(1.0), np.float32(8.0)), "accuracy": (3, 2)})
    assert means.take() == {"loss": 0.7, "accuracy": 1.0}


def test_taking_begins_a_new_interval_and_remembers_names():
    means = RunningMeans()
    means.add({"grad_norm": (4.0, 1.0), "loss": (4.0, 1.0)})
    means.take()
    means.add({"loss": (3.0, 2.0)})
    assert means.take() == {"loss": 1.5, "grad_norm": None}
    assert means.names() == ["loss", "grad_norm"]


@given(st.lists(st.tuples(st.floats(-(2.0**99), 2.0**99, width=32), st.integers(1, 9)), min_size=2), st.data())
def test_an_interruption_does_not_change_a_bit(pairs, data):
    cut = data.draw(st.integers(0, len(pairs)))
    straight, first = RunningMeans(), RunningMeans()
    for pair in pairs:
        straight.add({"loss": pair})
    for pair in pairs[:cut]:
        first.add({"loss": pair})
    second = RunningMeans(json.loads(json.dumps(first.sums())))
    for pair in pairs[cut:]:
        second.add({"loss": pair})
    assert second.sums() == straight.sums()


def test_means_of_float32_sums_are_summed_in_float64():
    means = RunningMeans()
    values = [np.float32(1e8), np.float32(0.1), np.float32(-1e8)]
    for value in values:
        means.add({"loss": (value, 1)})
    exact = float(sum(Fraction(float(value)) for value in values) / 3)
    assert math.isclose(means.take()["loss"], exact, rel_tol=1e-6)


def test_the_order_of_columns_is_fixed():
    names = {"zeta": 0, "learning_rate": 0, "alpha": 0, "accuracy": 0, "loss": 0, "grad_norm": 0}
    expected = ["loss", "accuracy", "grad_norm", "learning_rate", "alpha", "zeta"]
    assert ordered(names) == expected
    assert ordered(dict.fromkeys(reversed(names), 0)) == expected


def test_rows_are_exact_text(tmp_path):
    log = CsvLog(tmp_path / "m.csv")
    log.append({"step": 1, "train/loss": 0.1, "valid/loss": None})
    log.append({"step": 20, "train/loss": 1e-300, "valid/loss": float("nan")})
    log.close()
    text = (tmp_path / "m.csv").read_bytes()
    assert text == b"step,train/loss,valid/loss\n1,0.1,\n20,1e-300,nan\n"


def test_a_continued_file_is_cut_back_and_has_one_header(tmp_path):
    log = CsvLog(tmp_path / "m.csv")
    log.append({"step": 1, "a": 2.0})
    position = log.position()
    log.append({"step": 2, "a": 3.0})
    log.close()
    assert position == len(b"step,a\n1,2.0\n")
    with (tmp_path / "m.csv").open("a") as file:
        file.write("1")  # the beginning of 12,...
    log = CsvLog(tmp_path / "m.csv", 1, position)
    assert not log.is_short
    log.append({"step": 2, "a": 4.0})
    log.close()
    assert (tmp_path / "m.csv").read_bytes() == b"step,a\n1,2.0\n2,4.0\n"


def test_a_file_shorter_than_the_checkpoint_says_is_noticed_and_kept(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"step,a\n1,2.0\n")
    log = CsvLog(tmp_path / "m.csv", 8, 500)
    assert log.is_short
    log.append({"step": 9, "a": 1.0})
    assert log.position() == len(b"step,a\n1,2.0\n9,1.0\n")
    log.close()


def test_a_file_without_a_checkpoint_begins_anew(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"step,old\n1,2.0\n")
    log = CsvLog(tmp_path / "m.csv")
    log.append({"step": 1, "a": 1.0})
    log.close()
    assert (tmp_path / "m.csv").read_bytes() == b"step,a\n1,1.0\n"


def test_columns_of_a_later_version_are_added(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"step,a,b\n1,2.0,\n2,3.0,4.0\n")
    position = len(b"step,a,b\n1,2.0,\n")
    for last in (7.0, 8.0):  # the second time from the same checkpoint, which knows of the file as it was
        log = CsvLog(tmp_path / "m.csv", 1, position)
        assert not log.is_short
        log.append({"step": 2, "new": 5.0, "a": 6.0, "b": None})
        log.append({"step": 3, "new": None, "a": last, "b": 0.5})
        assert log.position() == (tmp_path / "m.csv").stat().st_size
        log.close()
        expected = f"step,new,a,b\n1,,2.0,\n2,5.0,6.0,\n3,,{last},0.5\n"
        assert (tmp_path / "m.csv").read_text() == expected


def test_other_columns_are_refused(tmp_path):
    log = CsvLog(tmp_path / "m.csv")
    log.append({"step": 1, "a": 2.0})
    with pytest.raises(UserError, match=r"columns step,a, this run writes step,b"):
        log.append({"step": 2, "b": 2.0})
    log.close()


def test_reading_gives_back_what_was_written(tmp_path):
    log = CsvLog(tmp_path / "m.csv")
    log.append({"step": 1, "a": 0.1 + 0.2, "b": None})
    log.append({"step": 3, "a": None, "b": 1e-7})
    log.close()
    assert read_csv(tmp_path / "m.csv") == {"step": [1, 3], "a": [0.1 + 0.2, None], "b": [None, 1e-7]}


def test_reading_a_file_without_rows(tmp_path):
    (tmp_path / "m.csv").write_text("step,a\n")
    assert read_csv(tmp_path / "m.csv") == {"step": [], "a": []}


def read_events(folder):
    """(step, tag, value) of every scalar and text TensorBoard would show: a session purges from its start step on."""
    shown = []
    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        content = path.read_bytes()  # records: 8 bytes of length, 4 of checksum, the event, 4 of checksum
        while content:
            length = int.from_bytes(content[:8], "little")
            event, content = Event.FromString(content[12 : 12 + length]), content[16 + length :]
            if event.HasField("session_log"):
                shown = [entry for entry in shown if entry[0] < event.step]
            for value in event.summary.value:
                texts = [text.decode() for text in value.tensor.string_val]
                shown.append((event.step, value.tag, texts[0] if texts else value.simple_value))
    return shown


def test_tensorboard_shows_every_step_once_after_a_restart(tmp_path):
    with Records(tmp_path, Config(steps=2), {}, 0) as records:
        records.write(1, {"epoch": 0.5, "train/loss": 2.0}, {})
        positions = records.positions()
        records.write(2, {"epoch": 1.0, "train/loss": 3.0}, {}, ["a", "b"])
    with Records(tmp_path, Config(steps=2), positions, 2) as records:
        records.write(2, {"epoch": 1.0, "train/loss": 3.0}, {"seconds": 5.0}, ["a", "b\n* c"])
    shown = read_events(tmp_path / "tensorboard")
    assert shown == [
        (1, "train/loss", 2.0),
        (2, "train/loss", 3.0),
        (2, "timing/seconds", 5.0),
        (2, "sample/0/text_summary", "    a"),
        (2, "sample/1/text_summary", "    b\n    * c"),
    ]
    assert (tmp_path / "metrics.csv").read_text() == "step,epoch,train/loss\n1,0.5,2.0\n2,1.0,3.0\n"
    assert (tmp_path / "timing.csv").read_text() == "step,seconds\n2,5.0\n"


def test_without_tensorboard_there_are_no_events(tmp_path):
    with Records(tmp_path, Config(steps=2, logging=LoggingConfig(tensorboard=False)), {}, 0) as records:
        records.write(1, {"train/loss": 2.0}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "timing.csv"]
