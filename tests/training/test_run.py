"""The folder of a run: whose it is, and what becomes of an old one."""

import io

import pytest

from jattn.config import Config
from jattn.errors import UserError
from jattn.training.progress import Console, duration
from jattn.training.run import check_files, keep_files, open_run, read_config


def open_(folder, config=None, restart=False, allow_config_change=False):
    config = Config(steps=3) if config is None else config
    return open_run(folder, config, restart=restart, allow_config_change=allow_config_change)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_run_stores_its_config_and_what_it_says(tmp_path, capsys):
    with open_(tmp_path / "a" / "b") as run:
        run.console.say("hello")
        run.console.warn("beware")
    assert read_config(tmp_path / "a" / "b") == Config(steps=3)
    assert (tmp_path / "a" / "b" / "log.txt").read_text() == "hello\nwarning: beware\n"
    assert capsys.readouterr().out == "hello\nwarning: beware\n"


def test_a_quiet_run_speaks_to_its_log_alone(tmp_path, capsys):
    with open_run(tmp_path, Config(steps=3), restart=False, allow_config_change=False, quiet=True) as run:
        run.console.warn("beware")
    assert (tmp_path / "log.txt").read_text() == "warning: beware\n"
    assert capsys.readouterr().out == ""


def test_the_same_config_continues_the_log(tmp_path):
    for text in ("one", "two"):
        with open_(tmp_path / "run") as run:
            run.console.say(text)
            assert run.changes == []
    assert (tmp_path / "run" / "log.txt").read_text() == "one\ntwo\n"


def test_another_config_is_refused_with_the_difference(tmp_path):
    with open_(tmp_path / "run"):
        pass
    with (
        pytest.raises(UserError, match=r"steps: 3 -> 4; seed: 0 -> 9|seed: 0 -> 9; steps: 3 -> 4"),
        open_(tmp_path / "run", Config(steps=4, seed=9)),
    ):
        pass
    assert read_config(tmp_path / "run") == Config(steps=3)


def test_an_allowed_change_is_shown_and_stored_only_when_the_caller_says(tmp_path):
    with open_(tmp_path / "run"):
        pass
    with open_(tmp_path / "run", Config(steps=4), allow_config_change=True) as run:
        assert run.changes == ["steps: 3 -> 4"]
    assert read_config(tmp_path / "run") == Config(steps=3)


def test_a_restart_keeps_every_old_run(tmp_path):
    for number in range(3):
        with open_(tmp_path / "run", Config(steps=3 + number), restart=True) as run:
            (run.folder / "result").write_text(str(number))
    assert names(tmp_path) == ["run", "run.old-1", "run.old-2"]
    assert [(tmp_path / name / "result").read_text() for name in names(tmp_path)] == ["2", "0", "1"]
    assert read_config(tmp_path / "run.old-1") == Config(steps=3)
    assert "kept as" in (tmp_path / "run" / "log.txt").read_text()


def test_two_cannot_train_in_one_folder(tmp_path):
    with open_(tmp_path / "run"):
        for restart in (False, True):
            with (
                pytest.raises(UserError, match="another process is training"),
                open_(tmp_path / "run", restart=restart),
            ):
                pass
        assert names(tmp_path) == ["run"]
    with open_(tmp_path / "run"):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for restart in (False, True):
        with (
            pytest.raises(UserError, match=r"holds no run but other files \(thesis\.tex\)"),
            open_(tmp_path, restart=restart),
        ):
            pass
    assert names(tmp_path) == ["thesis.tex"]


def test_what_a_process_left_that_died_at_once_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "config.json.part").write_text("{")
    with open_(tmp_path):
        pass
    assert read_config(tmp_path) == Config(steps=3)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write to .*/file/run \(Not a directory\)"),
        open_(tmp_path / "file" / "run"),
    ):
        pass


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_where_nobody_watches():
    log, output = io.StringIO(), io.StringIO()
    with Console(log, output) as console:
        console.begin_bar(0, 9)
        console.training(3, 9, "loss 1", 75.0)
        console.step(4)
    assert output.getvalue() == log.getvalue() == "step 3/9  loss 1  1:15 left\n"


def test_a_terminal_has_a_bar_and_the_log_has_the_lines():
    log, terminal = io.StringIO(), Terminal()
    with Console(log, terminal) as console:
        console.begin_bar(0, 9)
        console.step(4)
        console.training(4, 9, "loss 1.5", None)
        console.say("valid/loss [1]")
    assert log.getvalue() == "step 4/9  loss 1.5\nvalid/loss [1]\n"
    shown = terminal.getvalue()
    assert "valid/loss [1]" in shown
    assert "4/9" in shown
    assert "loss 1.5" in shown


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_run_keeps_the_vocabulary_it_began_with(tmp_path):
    keep_files(tmp_path, {"tokenizer.json": "é"}, replace=True)
    keep_files(tmp_path, {"tokenizer.json": "é"}, replace=False)
    check_files(tmp_path, {"tokenizer.json": "é", "other.json": "not kept yet"})
    message = (
        r"tokenizer.json \(SHA-256 4a99557e4033...\) is not what the data now gives \(3f79bb7b435b...\).*--restart"
    )
    with pytest.raises(UserError, match=message):
        check_files(tmp_path, {"tokenizer.json": "e"})
    with pytest.raises(UserError, match="the text has changed since this run began"):
        keep_files(tmp_path, {"tokenizer.json": "e"}, replace=False)
    assert (tmp_path / "tokenizer.json").read_text(encoding="utf-8") == "é"
    keep_files(tmp_path, {"tokenizer.json": "e"}, replace=True)
    check_files(tmp_path, {"tokenizer.json": "e"})
