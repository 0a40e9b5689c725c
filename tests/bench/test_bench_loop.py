"""The benchmark of the loop: what it measures, and what it refuses."""

import argparse
import json
from pathlib import Path

import pytest

from jattn.bench import loop
from jattn.errors import UserError

pytestmark = pytest.mark.usefixtures("experiments_are_kept")

CONFIG = """
from tests import runs

def get_config(arg=""):
    config = runs.get_config("digits_vit", "smoke")
    config.optim.name = "sgd"
    return config
"""


def arguments(*argv):
    parser = argparse.ArgumentParser()
    loop.add_arguments(parser)
    return parser.parse_args(argv)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    return str(tmp_path / "config.py")


def test_both_are_measured_every_time(config, tmp_path, capsys):
    loop.run(arguments(f"--config={config}", "--steps=12", "--repeats=2", f"--out={tmp_path / 'out.json'}"))
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["case"]["part"] for row in rows] == ["bare step", "training loop", "look at attention"]
    assert all(row["milliseconds"] > 0 and row["repeats"] == 2 and row["case"]["steps"] == 12 for row in rows)
    of_look = rows[2]["share_of_step"]
    assert of_look["every"] == 100
    assert 0 < of_look["quartiles"][0] <= of_look["share"] <= of_look["quartiles"][1]
    shown = capsys.readouterr().out
    assert "one in 100 steps" in shown
    assert "overhead" in shown
    assert "beginning" not in shown  # what the runs say is of no interest


def test_too_few_steps_and_absent_configs_are_sentences(config):
    with pytest.raises(UserError, match="--steps=8 is too short: at least 12"):
        loop.run(arguments(f"--config={config}", "--steps=8"))
    with pytest.raises(UserError, match=r"no config file 'nowhere\.py'"):
        loop.run(arguments("--config=nowhere.py"))


def test_the_default_config_is_there():
    assert Path(arguments().config).is_file()
