"""The command from end to end: real runs where a run matters, copies of them where only their numbers do."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from jattn import cli, config_json, data
from jattn.__main__ import main
from jattn.compare import command, course, files, report, runs, speed, statistics, table, worker
from jattn.compare.grid import cells, parse_axis
from jattn.errors import UserError

pytestmark = pytest.mark.usefixtures("experiments_are_kept")

CONFIG = "configs/digits_vit.py:smoke"
AXIS = "model.attention.name=softmax,kvt(topk=8),natural"
ACCURACY = {
    "softmax": [0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97],
    "kvt(topk=8)": [0.95, 0.97, 0.96, 0.99, 0.98, 0.97, 0.99, None],
    "natural": [0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97],
}
"""Of each seed; None = it diverges."""

COPY = """
import json, pathlib, shutil, sys
source, folder, record, config_hash, accuracy = sys.argv[1:]
if accuracy == "None":
    print("error: training stopped at step 7")
    pathlib.Path(record).write_text(json.dumps({"exit_code": 3, "config_hash": config_hash}))
    sys.exit(3)
shutil.copytree(source, folder)
path = pathlib.Path(folder) / "results.json"
results = json.loads(path.read_text())
results["config_hash"], results["measures"]["accuracy"] = config_hash, float(accuracy)
path.write_text(json.dumps(results))
"""

PAGE = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "report.html").write_text(json.loads((folder / "comparison.json").read_text())["date"])
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run that the worker did."""
    folder = tmp_path_factory.mktemp("real")
    (job, *_) = runs.make_jobs(cells(CONFIG, [parse_axis(AXIS)], []), [0], folder, "test", "best")
    assert worker.main(runs.worker_command(job)[3:]) == 0
    return job


@pytest.fixture(scope="module")
def compared(real, tmp_path_factory):
    """The command's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("compared")

    def copying(job):
        accuracy = ACCURACY[job.cell.name][job.seed]
        given = (real.folder, job.folder, job.record, config_json.config_hash(job.config), accuracy)
        return [sys.executable, "-c", COPY, *map(str, given)]

    argv = ["compare", CONFIG, f"--axis={AXIS}", "--seeds=8", "--jobs=4", f"--workdir={folder}"]
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jattn", *argv])
        patch.setattr(runs, "worker_command", copying)
        patch.setattr(runs, "page_command", lambda folder: [sys.executable, "-c", PAGE, str(folder)])
        patch.setattr(command.bench_table, "console", lambda: Console(file=output, width=240))
        assert main(argv) == 0
    return folder, output.getvalue()


@pytest.fixture(scope="module")
def found(compared):
    return json.loads((compared[0] / files.JSON).read_text())


def test_the_worker_does_what_train_and_eval_do(real):
    parsed = cli.parse_train(["train.py", *real.train_flags()])
    assert (parsed.config, parsed.workdir) == (real.config, real.folder)
    outcome = runs.outcome(real)
    assert not outcome.failure
    assert outcome.step in (6, 12)
    assert outcome.record["exit_code"] == 0
    assert outcome.record["machine"]["platform"] == "cpu"
    assert outcome.measures == json.loads((real.folder / "results.json").read_text())["measures"]


def test_a_run_that_is_evaluated_again_keeps_the_record_of_its_training(real):
    before = real.record.read_text()
    runs._begin([sys.executable, "-c", ""], real, {}, subprocess.DEVNULL).wait()
    assert worker.main(runs.worker_command(real)[3:]) == 0
    assert real.record.read_text() == before


def test_a_worker_s_mistake_is_recorded(real, tmp_path, capsys):
    (tmp_path / "seed0").write_text("in the way")
    flags = [*real.train_flags()[:-1], f"--workdir={tmp_path / 'seed0'}"]
    assert worker.main([str(tmp_path / "seed0.json"), "test", "best", *flags]) == 2
    assert json.loads((tmp_path / "seed0.json").read_text())["exit_code"] == 2
    assert "cannot write to" in capsys.readouterr().err


def test_cells_hold_the_statistics_of_their_runs(found):
    by_name = {cell["cell"]: cell for cell in found["cells"]}
    assert list(by_name) == list(ACCURACY)
    softmax = by_name["softmax"]["measures"]["accuracy"]
    expected = statistics.summary(ACCURACY["softmax"])
    assert (softmax["mean"], softmax["standard_error"]) == (expected.mean, expected.standard_error)
    assert tuple(softmax["interval"]) == expected.interval
    kvt = by_name["kvt(topk=8)"]
    assert kvt["failed"] == {"7": "training stopped at step 7"}
    assert kvt["measures"]["accuracy"]["values"] == ACCURACY["kvt(topk=8)"][:7]
    assert kvt["differs"] == ["model.attention.name: 'softmax' -> 'kvt'", "model.attention.options: '' -> 'topk=8'"]


def test_comparisons_pair_the_seeds_that_both_finished(found):
    kvt, natural = found["comparisons"]
    expected = statistics.paired(ACCURACY["kvt(topk=8)"][:7], ACCURACY["softmax"][:7])
    assert kvt["paired"]["counts"] == [7, 7]
    assert kvt["paired"]["difference"] == expected.difference
    assert kvt["paired"]["p_value"] == expected.p_value
    # natural does not differ in any run: the correction for two comparisons costs nothing.
    assert kvt["paired"]["p_corrected"] == expected.p_value == 2 / 2**7
    assert kvt["unpaired"]["p_corrected"] == 2 * kvt["unpaired"]["p_value"]
    assert kvt["unpaired"]["counts"] == [7, 8]
    assert (kvt["verdict"], natural["verdict"]) == (report.BETTER, report.NONE_SHOWN)
    assert natural["paired"]["p_corrected"] == 1.0


def test_what_a_reader_has_to_know_is_said(found, compared):
    said = "\n".join(found["notes"])
    assert "kvt(topk=8): seed 7 failed (training stopped at step 7) and is in no mean or test" in said
    assert "softmax and natural agree in every measure of every run to the last digit" in said
    assert "cannot show" not in said
    assert found["command"].startswith(f"python -m jattn compare {CONFIG}")
    assert found["seeds"] == list(range(8))
    assert set(found["steps"].values()) == {12}
    printed = compared[1]
    for text in (*found["notes"], "no difference shown", "7 (1 failed)", "better", "93.5 ± 0.87"):
        assert text in printed


def test_the_page_is_written_when_all_is_found(found, compared):
    assert (compared[0] / "report.html").read_text() == found["date"]


def test_tables_for_other_programs(found, compared):
    by_cell, by_run = (list(csv.DictReader((compared[0] / name).open())) for name in (files.CELLS, files.RUNS))
    assert [row["verdict"] for row in by_cell] == ["baseline", "better", "no difference shown"]
    assert float(by_cell[1]["paired_difference"]) == found["comparisons"][0]["paired"]["difference"]
    assert len(by_run) == 24
    failed = [row for row in by_run if row["failure"]]
    assert [(row["cell"], row["seed"], row["accuracy"]) for row in failed] == [("kvt(topk=8)", "7", "")]
    assert [float(row["accuracy"]) for row in by_run if row["cell"] == "softmax"] == ACCURACY["softmax"]


def built(values, tmp_path, real, measure="accuracy", threshold=None, speeds=None, commits="aaaaaaaa"):
    """A report of copies of the real run with these values of a measure, None = failed."""
    grid = cells(CONFIG, [parse_axis(AXIS)], [])[: len(values)]
    jobs = runs.make_jobs(grid, range(len(values[0])), tmp_path, "test", "best")
    outcomes = []
    for job in jobs:
        value = values[[cell.name for cell in grid].index(job.cell.name)][job.seed]
        if value is not None:
            shutil.copytree(real.folder, job.folder, dirs_exist_ok=True)
        failure = "" if value is not None else "why"
        record = {"commit": {"hash": commits[job.seed]}, "machine": {"device": "cpu"}}
        outcomes.append(
            runs.Outcome(job, {} if failure else {measure: value}, None if failure else 12, failure, record)
        )
    sizes = {cell.name: command.matching.Size(1, 2) for cell in grid}
    question = report.Question(measure, grid[0].name, threshold)
    return report.build(outcomes, sizes, question, {"argv": ["compare"], "heading": "heading"}, speeds)


def test_few_seeds_say_what_they_cannot_show(real, tmp_path):
    found = built(
        [[0.5, 0.6, 0.55, 0.52, 0.51], [0.9, 0.95, 0.91, 0.93, 0.94], [0.1, 0.2, 0.3, 0.1, 0.2]], tmp_path, real
    )
    assert [c["verdict"] for c in found["comparisons"]] == [report.NONE_SHOWN] * 2
    assert found["notes"] == [
        "5 pairs of runs cannot show p < 0.0625, however large the difference: at least 6 seeds can show p < 0.05"
    ]


def test_one_seed_and_failed_cells_are_rows_without_tests(real, tmp_path):
    found = built([[0.5], [None]], tmp_path, real)
    assert found["comparisons"][0]["verdict"] == report.NOT_TESTED
    assert [cell["measures"].get("accuracy", {}).get("mean") for cell in found["cells"]] == [0.5, None]
    files.write(tmp_path, found)
    output = io.StringIO()
    table.show(Console(file=output, width=200), found)
    assert "none finished" in output.getvalue()
    found = built([[0.5, 0.6], [float("nan"), 0.6]], tmp_path / "nan", real)
    assert found["cells"][1]["failed"] == {0: "its accuracy is nan"}
    assert found["comparisons"][0]["paired"]["counts"] == (1, 1)
    found = built([[None, None], [0.5, 0.6]], tmp_path, real)  # the baseline failed: nothing to reach
    assert found["threshold"] is None
    table.show(Console(file=output, width=200), found)


def test_values_of_runs_of_ones_own_make_the_same_table():
    values = {"a": [0.5, 0.6, 0.7], "b": [0.51, 0.63, 0.72], "c": [0.4, 0.7, 0.7]}
    output = io.StringIO()
    Console(file=output, width=200).print(table.of_values("Accuracy, %", values, 100.0))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.getvalue().splitlines() if "│" in line]
    low, high = statistics.paired(values["b"], values["a"]).interval
    assert rows[0] == ["a", "60 ± 5.8", "50, 60, 70", "", "", ""]
    p = statistics.corrected_together({"b": {0: 0.01, 1: 0.03, 2: 0.02}, "c": {0: -0.1, 1: 0.1, 2: 0.0}})
    assert rows[1] == ["b", "62 ± 6.1", "51, 63, 72", "+2", f"{100 * low:+.4g} to {100 * high:+.4g}", f"{p['b']:.3g}"]
    assert rows[2] == ["c", "60 ± 10", "40, 70, 70", "0", "-10 to +10", f"{p['c']:.3g}"]
    alone = table.of_values("", {"a": [0.5], "b": [0.6]})
    assert [list(column.cells)[1] for column in alone.columns][1:] == ["0.6", "0.6", "+0.1", "", ""]


def test_less_is_better_for_the_loss(real, tmp_path):
    low, high = np.linspace(1, 1.1, 7), np.linspace(2, 2.1, 7)
    found = built([high, low], tmp_path, real, measure="loss", threshold=1e9)
    assert found["comparisons"][0]["verdict"] == report.BETTER
    assert (found["threshold"], found["threshold_is"], found["curve"]) == (1e9, "given", "valid/loss")
    assert {run["steps_to_threshold"] for run in found["runs"]} == {6}  # the first validation


def test_speeds_are_those_of_the_runs_or_measured_afterwards(real, tmp_path):
    own = course.read_course(real.folder, "loss")
    (cell,) = built([[0.5, 0.6]], tmp_path, real)["cells"]
    assert cell["steps_per_second"] == own.steps_per_second
    assert cell["steps_per_second_quartiles"] == (own.steps_per_second,) * 2
    assert cell["peak_memory_bytes"] == own.peak_memory_bytes
    speeds = speed.Speeds(
        {"cores": 2},
        {"softmax": speed.Speed(40.0, (30.0, 50.0), 7_000_000), "kvt(topk=8)": speed.Speed(error="out of memory: why")},
    )
    found = built([[0.5], [0.5]], tmp_path / "again", real, speeds=speeds)
    assert found["speeds"] == {"rounds": speed.ROUNDS, "machine": {"cores": 2}}
    timed, untimed = found["cells"]
    assert timed["seconds_to_threshold"] == timed["steps_to_threshold"] / 40
    assert untimed["seconds_to_threshold"] is None
    assert "kvt(topk=8): its training step could not be timed (out of memory: why)" in found["notes"]
    files.write(tmp_path, found)
    rows = list(csv.DictReader((tmp_path / files.CELLS).open()))
    names = ("steps_per_second", "steps_per_second_low", "steps_per_second_high", "peak_memory_bytes")
    assert [[row[name] for name in names] for row in rows] == [["40.0", "30.0", "50.0", "7000000"], [""] * 4]
    output = io.StringIO()
    table.show(Console(file=output, width=240), found)
    for text in ("speeds are timed when the runs were done", "30 to 50", " 7 "):
        assert text in output.getvalue()


def test_the_step_is_timed_and_what_cannot_be_is_told(tmp_path):
    config = json.dumps({"model": {"attention": {"name": "nothing"}}})
    grid = cells(CONFIG, [parse_axis("arg=softmax")], [])
    speed.main(str(tmp_path / "speeds"), {"softmax": config_json.to_json(grid[0].config), "no": config})
    found = speed.read(tmp_path / "speeds")
    timed = found.cells["softmax"]
    assert found.machine["platform"] == "cpu"
    assert 0 < timed.quartiles[0] <= timed.steps_per_second <= timed.quartiles[1]
    assert timed.peak_memory_bytes > 0
    assert "nothing" in found.cells["no"].error


def test_a_budget_s_speeds_are_measured_once(monkeypatch, tmp_path):
    grid = cells(CONFIG, [parse_axis("arg=softmax,kvt")], [])
    asked = []

    def measured(some):
        asked.append([cell.name for cell in some])
        return speed.Speeds({}, {cell.name: speed.Speed(4.0) for cell in some})

    monkeypatch.setattr(speed, "measured", measured)
    assert speed.steps_per_second(grid[:1], tmp_path / "speeds") == {"softmax": 4.0}
    assert speed.steps_per_second(grid, tmp_path / "speeds") == {"softmax": 4.0, "kvt": 4.0}
    assert asked == [["softmax"], ["kvt"]]
    monkeypatch.setattr(speed, "measured", lambda some: speed.Speeds({}, {"softmax": speed.Speed(error="why")}))
    with pytest.raises(UserError, match=r"the speed of 'softmax' could not be measured \(why\)"):
        speed.steps_per_second(grid[:1], tmp_path / "other")


def test_runs_name_what_made_them(real, tmp_path):
    found = built([[0.5, None, 0.6], [0.5, 0.7, None]], tmp_path, real, commits="aba")
    assert [origin["commit"]["hash"] for origin in found["origins"]] == ["a", "b"]
    assert [run["origin"] for run in found["runs"]] == [0, 0, 1, 1, 0, 0]
    assert "the runs were made by 2 different states of the code: see what each run says" in found["notes"]
    files.write(tmp_path, found)
    rows = list(csv.DictReader((tmp_path / files.RUNS).open()))
    assert [(row["commit"], row["device"]) for row in rows] == [(hash, "cpu") for hash in "aabbaa"]


def test_the_json_is_what_was_found_and_short(real, tmp_path):
    found = built([[0.5, float("inf")], [None, 0.6]], tmp_path, real)
    files.write(tmp_path, found)
    text = (tmp_path / files.JSON).read_text()
    again = json.loads(text)
    assert text.count("\n") < 200
    curve = again["runs"][0]["curve"]
    assert curve["steps"] == [6, 12]
    assert curve["values"] == list(course.read_course(real.folder, "accuracy").values)
    assert again["runs"][1] == {**found["runs"][1], "measures": {}}
    assert again["runs"][2]["measures"] == {"accuracy": None}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--axis=model.atention.name=a,b"], "did you mean 'model.attention.name'"),
        (["--axis=model.attention.name=softmax,kvtt"], "unknown mechanism 'kvtt': did you mean 'kvt'"),
        (["--axis=model.attention.name=softmax,kvt(tpk=8)"], "tpk"),
        (["--axis=arg=softmax,kvtt"], "kvtt"),
        (["--axis=data.name=digits,mqar"], "differ in data.name"),
        (["--axis=loss.name=cross_entropy,mean_squared_error", "--measure=loss"], "differ in loss.name"),
        (["--axis=arg=kvt", "--baseline=softmax"], "unknown baseline 'softmax': known: kvt"),
        (["--axis=model.width=16,15"], "15"),
        (["--axis=arg=kvt", "--measure=acuracy"], "did you mean 'accuracy'"),
        (["--axis=arg=kvt", "--split=tests"], "did you mean 'test'"),
        (["--axis=arg=kvt", "--budget=hours"], "unknown budget 'hours'"),
        (["--seeds=0"], "--seeds=0 must be at least 1"),
        (["--axis=arg=kvt", "--jobs=0"], "--jobs=0 must be at least 1"),
        (["--axis=arg=kvt", "--config.model.widht=3"], "did you mean 'model.width'"),
        (["--axis=arg=kvt", "--config.checkpoint.best_metric=valid/acc"], "did you mean 'valid/accuracy'"),
        (["--axis=model.initialization=keras,pytorhc"], "did you mean 'pytorch'"),
        (["--axis=arg=kvt", "--config.model.implementation=cudnn"], "it needs an NVIDIA GPU"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(argv, says, tmp_path, capsys):
    assert main(["compare", CONFIG, *argv, f"--workdir={tmp_path / 'new'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "new").exists()


def test_what_needs_the_devices_of_the_runs_is_left_to_them(monkeypatch):
    """The command itself sees one CPU, whatever they have."""
    (cell,) = cells(CONFIG, [parse_axis("arg=softmax")], ["--config.model.implementation=cudnn"])
    dataset = data.build(cell.config.data)
    monkeypatch.setattr(runs, "gpus", lambda: ["0", "1"])
    cell.config.parallel.data = 7
    command._check(cell.config, dataset)
    assert command.matching.size_of(cell.config, dataset).params > 0


def test_a_folder_of_another_comparison(real, capsys):
    folder = real.folder.parent.parent
    before = sorted(folder.rglob("*"))
    assert main(["compare", CONFIG, f"--axis={AXIS}", "--config.steps=9", f"--workdir={folder}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: {real.folder} holds a run of another config (steps: 12 -> 9): choose another --work"
    )
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("part", ["run_all", "measured"])
def test_a_stop_is_told_by_the_exit_code(part, monkeypatch, tmp_path):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_all", stopped if part == "run_all" else lambda *args: [])
    monkeypatch.setattr(speed, "measured", stopped)
    assert main(["compare", CONFIG, "--axis=arg=kvt", "--speeds", f"--workdir={tmp_path}"]) == cli.INTERRUPTED
    assert not (tmp_path / files.JSON).exists()


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    assert main(["compare", CONFIG, f"--workdir={tmp_path / 'file' / 'new'}"]) == 2
    assert "cannot write to" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["compare", CONFIG, "--sedes=3"], ["verify", "x", "--config.seed=1"]])
def test_unknown_flags(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err
