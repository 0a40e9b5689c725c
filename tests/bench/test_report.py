"""Reports: tables, plots, and what changed between two files."""

from pathlib import Path

import pytest

from jattn.__main__ import parser
from jattn.bench import report, results
from jattn.errors import UserError


def row(length, name, milliseconds, spread, **further):
    return {
        "case": {"length": length, "mechanism": name, "implementation": "chosen", "part": "kernel"},
        "milliseconds": milliseconds,
        "milliseconds_quartiles": [milliseconds - spread, milliseconds + spread],
        "repeats": 3,
        "scratch_bytes": 1000 * length,
        **further,
    }


OLD = [row(64, "a", 10.0, 1.0), row(128, "a", 20.0, 1.0), row(64, "b", 5.0, 1.0), row(128, "b", 9.0, 1.0)]
NEW = [
    row(64, "a", 5.0, 1.0),
    {**row(128, "a", 21.0, 1.0), "scratch_bytes": 64_000},
    row(64, "b", 8.0, 1.0),
    {"case": OLD[3]["case"], "error": "out of memory: needs 9 GB"},
]


@pytest.fixture
def files(tmp_path):
    for name, rows in (("old", OLD), ("new", NEW)):
        results.write(tmp_path / f"{name}.json", "attention", rows)
    return str(tmp_path / "old.json"), str(tmp_path / "new.json")


def run(*argv):
    report.run(parser().parse_args(["bench", "report", *argv]))


def test_changes_beyond_both_spreads_are_flagged(files):
    old, new = (results.read(Path(path)) for path in files)
    faster, same, slower, failed = report.compare(old, new)
    assert (faster["ratio"], faster["low"], faster["high"]) == (0.5, 4 / 11, 6 / 9)
    assert [change["changed"] for change in (faster, same, slower)] == [True, False, True]
    assert (faster["scratch"], same["scratch"]) == (1.0, 0.5)
    assert failed["error"] == "after: out of memory: needs 9 GB"


def test_both_files_are_shown_and_compared(files, capsys):
    run(*files)
    shown = capsys.readouterr().out
    assert shown.count("SLOWER") == 1
    assert shown.count("faster") == 1
    assert "out of memory: needs 9 GB" in shown
    assert "10.0 (9.000 to 11.0)" in shown


def test_markdown(files, capsys):
    run(*files, "--markdown")
    lines = capsys.readouterr().out.splitlines()
    assert "chosen, kernel" in lines  # what all rows share is said once
    assert "| length | mechanism | ms (quartiles) | scratch MB |" in lines
    assert "| 64 | a | 10.0 (9.000 to 11.0) | 0.1 |" in lines
    assert any(line.startswith("| 64 | b ") and "SLOWER" in line for line in lines)


def test_plots(files, tmp_path):
    run(files[0], f"--plots={tmp_path / 'plots'}")
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["old-scratch.png", "old-time.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())


def test_other_conditions_are_named(files):
    old, new = (results.read(Path(path)) for path in files)
    assert report.different_conditions(old, new) == []
    new["versions"]["jax"] = "0.0"
    old["versions"].pop("torch", None)
    new["versions"]["torch"] = "2.13"
    assert report.different_conditions(old, new) == [
        f"jax ({old['versions']['jax']}, 0.0)", "torch (None, 2.13)",
    ]  # fmt: skip


def test_mistakes_are_sentences(files, tmp_path):
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "other.json").write_text('{"format": 0}')
    results.write(tmp_path / "step.json", "step", NEW)
    results.write(tmp_path / "apart.json", "attention", [row(32, "a", 1.0, 0.1)])
    for argv, sentence in (
        (("nowhere.json",), "there is no file 'nowhere.json'"),
        ((str(tmp_path / "no.json"),), "is no file of results"),
        ((str(tmp_path / "other.json"),), "is no file of results of format 1"),
        ((files[0], str(tmp_path / "step.json")), "benchmarks attention and step"),
        ((files[0], str(tmp_path / "apart.json")), "no row in common"),
        ((str(tmp_path / "apart.json"), f"--plots={tmp_path}"), "fewer than two lengths"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(*argv)
