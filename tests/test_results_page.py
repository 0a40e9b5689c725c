"""docs/results.md is what its script makes of the files in docs/results/."""

import json
import re
import runpy

import pytest

from tests.test_layout import PACKAGE

ROOT = PACKAGE.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "results_page.py"))
REPORTS = SCRIPT["read"](SCRIPT["FOLDER"])


def test_the_page_is_made_of_the_committed_files():
    assert SCRIPT["PAGE"].read_text() == SCRIPT["page"](REPORTS)
    assert REPORTS


def test_its_pictures_are_there_and_small():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", SCRIPT["PAGE"].read_text())
    assert len(pictures) == 3 * len(REPORTS)
    assert all(0 < (ROOT / "docs" / picture).stat().st_size < 150_000 for picture in pictures)


def test_its_pages_are_of_the_committed_comparisons_and_small():
    pages = [SCRIPT["FOLDER"] / name / SCRIPT["HTML"] for name in REPORTS]
    assert all(path.stat().st_size < 3_000_000 for path in pages)
    for path, report in zip(pages, REPORTS.values(), strict=True):
        assert report["date"] in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REPORTS)
def test_a_comparison_says_how_to_repeat_it(name):
    report = REPORTS[name]
    assert report["command"].startswith(f"python -m jattn compare {report['config']} ")
    assert (ROOT / report["config"]).exists()
    assert all(origin["commit"] and not origin["commit"]["dirty"] for origin in report["origins"])
    assert not re.search(r"[\"= ]/", json.dumps(report["command"]))  # no folder of a machine
    assert {run["seed"] for run in report["runs"]} == set(report["seeds"])


def test_what_failed_is_not_left_out():
    failed = {"cell": "a", "failed": {"0": "why", "1": "why"}, "measures": {}}
    assert SCRIPT["mean"](failed, "accuracy", 100.0) == "none (2 failed)"
    some = failed | {"failed": {"1": "why"}, "measures": {"accuracy": {"mean": 0.5, "standard_error": 0.0123}}}
    assert SCRIPT["mean"](some, "accuracy", 100.0) == "50 ± 1.2 (1 failed)"
    found = {"paired": {"difference": -5e-17, "interval": None, "p_corrected": None}, "verdict": "not tested"}
    assert SCRIPT["compared"](found, 100.0) == ("0", "", "", "not tested")
    first = next(iter(REPORTS.values()))
    killed = [row | {"seconds": None, "failure": "the process was ended by SIGKILL"} for row in first["runs"]]
    assert "0:00 of run time" in SCRIPT["run"](first | {"runs": killed})
