"""Curves of runs, from logs written by hand."""

import json
import math

import pytest

from jattn import config_json
from jattn.__main__ import main
from jattn.analysis import of_convergence, of_dynamics
from jattn.analysis.convergence import curves, laid_over, names, summary
from jattn.analysis.selection import Selection
from jattn.config import Config, DataConfig, ModelConfig
from jattn.errors import UserError


@pytest.fixture
def logged(tmp_path):
    """Two runs that were logged; the second has energies."""
    logs = {
        "a": "step,epoch,train/loss,valid/loss\n10,0.1,4.0,\n20,0.2,2.0,\n30,0.3,1.0,\n40,0.4,1.5,3.0\n",
        "b": "step,epoch,train/loss,train/energy,valid/loss\n"
        "10,0.1,4.0,0.5,\n20,0.2,2.0,1.5,\n30,0.3,1.0,2.5,\n40,0.4,1.5,3.5,3.0\n",
    }
    config = config_json.to_json(Config(steps=40, model=ModelConfig(name="language_model")))
    for name, log in logs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        (tmp_path / name / "metrics.csv").write_text(log)
    return tmp_path


def test_summary():
    found = summary(([10.0, 20.0, 30.0, 40.0, 50.0], [4.0, 2.9, 1.9, 1.0, 2.0]))
    assert (found.first, found.last, found.best, found.best_step) == (4.0, 2.0, 1.0, 40)
    assert found.halfway == 30
    assert (found.level, found.spread, found.slope) == (1.5, 0.5, None)


def test_of_accuracy_more_is_better():
    found = summary(([1.0, 2.0, 3.0], [0.1, 0.9, 0.5]), higher=True)
    assert (found.best, found.best_step, found.halfway) == (0.9, 2, 2)


def test_a_run_that_diverged_was_best_before():
    found = summary(([1.0, 2.0, 3.0, 4.0], [3.0, 2.0, math.nan, math.nan]))
    assert (found.best, found.best_step, found.halfway) == (2.0, 2, 2)
    assert math.isnan(found.last)


def test_slope_is_per_thousand_steps():
    steps = [float(10 * i) for i in range(41)]
    assert summary((steps, [5 - 0.002 * s for s in steps])).slope == pytest.approx(-2.0)


def test_curves_of_a_run(logged):
    found = curves(logged / "b", perplexity=True)
    assert found["train/loss"] == ([10.0, 20.0, 30.0, 40.0], [4.0, 2.0, 1.0, 1.5])
    assert found["train/energy"][1] == [0.5, 1.5, 2.5, 3.5]
    assert found["valid/loss"] == ([40.0], [3.0])
    assert found["train/perplexity"][1][0] == pytest.approx(math.exp(4))


def test_runs_are_laid_over_one_another(logged):
    over = laid_over({name: curves(logged / name, perplexity=False) for name in ("a", "b")})
    assert list(over) == ["train/loss", "valid/loss", "train/energy"]
    assert list(over["train/energy"]) == ["b"]


def test_names_tell_runs_apart(tmp_path):
    paths = [tmp_path / "x" / "seed0", tmp_path / "y" / "seed0"]
    assert list(names(paths).values()) == ["x/seed0", "y/seed0"]
    with pytest.raises(UserError, match="same run twice"):
        names([paths[0], paths[0]])


def test_statistics_in_the_log(logged):
    assert of_dynamics.logged(logged / "a") == {}
    log = "step,attention/block_0/entropy,attention/block_1/entropy\n5,1.5,2.5\n7,,\n10,1.0,2.0\n"
    (logged / "a" / "metrics.csv").write_text(log)
    assert of_dynamics.logged(logged / "a") == {
        "entropy": {"0": {"step": [5.0, 10.0], "value": [1.5, 1.0]}, "1": {"step": [5.0, 10.0], "value": [2.5, 2.0]}}
    }


def test_energies_are_drawn_with_their_spread_where_the_log_has_it(logged):
    """A run of before spreads were logged has the mean alone."""
    columns = "step,train/loss,attention/block_0/energy,attention/block_0/"
    (logged / "a" / "metrics.csv").write_text(f"{columns}entropy\n5,1.0,1.5,2.5\n10,0.5,1.0,2.0\n")
    (logged / "b" / "metrics.csv").write_text(f"{columns}energy_spread\n5,1.0,1.75,0.5\n10,0.5,1.0,0.25\n")
    made = of_convergence.report(Selection((logged / "a", logged / "b")))
    loss, _, energy = made.figures["curves"].axes
    mean, spread = energy.lines[1:]
    assert [list(line.get_ydata()) for line in energy.lines] == [[1.5, 1.0], [1.75, 1.0], [0.5, 0.25]]
    assert (spread.get_linestyle(), spread.get_color()) == (":", mean.get_color())
    assert energy.get_ylabel() == "attention/block_0/energy\n(dotted: spread)"
    assert (len(loss.lines), loss.get_ylabel()) == (2, "train/loss")
    assert made.values["summary"]["attention/block_0/energy_spread"]["b"]["last"] == 0.25
    assert "attention/block_0/entropy" not in made.values["curves"]


def test_command(logged, capsys):
    words = ["analyze", "--workdir", str(logged / "a"), str(logged / "b"), "--what=convergence"]
    assert main(words) == 0
    written = json.loads((logged / "a" / "analysis" / "convergence.json").read_text())
    assert written["summary"]["train/energy"]["b"]["level"] == 3.5
    assert (logged / "a" / "analysis" / "convergence-curves.png").stat().st_size > 1000
    assert "train/perplexity" in capsys.readouterr().out


def test_runs_of_other_data_are_not_laid_over_one_another(logged, capsys):
    other = Config(steps=40, model=ModelConfig(name="language_model"), data=DataConfig(name="python_docs"))
    (logged / "b" / "config.json").write_text(config_json.to_json(other))
    assert main(["analyze", "--workdir", str(logged / "a"), str(logged / "b"), "--what=convergence"]) == 2
    error = capsys.readouterr().err
    assert "a and " in error
    assert "differ in data.name ('digits' and 'python_docs')" in error
    assert error.count("\n") == 1
    assert not (logged / "a" / "analysis").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--what=convergence"], "holds no numbers yet"),
        (["--what=convergence", "--layers=99"], "does not follow --layers: leave that out (convergence takes none of"),
        (["--what=convergence", "--examples=8"], "--what=convergence does not follow --examples"),
        (["--what=dynamics", "--checkpoint=best"], "--what=dynamics does not follow --checkpoint"),
        (
            ["--what=energies", "--layers=0", "--heads=1"],
            "--what=energies does not follow --layers --heads: leave that",
        ),
        (["--timed-batches=0"], "--what=patterns does not follow --timed-batches"),
        (
            ["--what", "adaptive", "criticality", "--timed-lengths=9"],
            "criticality does not follow --timed-lengths: leave that out, or give",
        ),
        (["--what=adaptive", "--split=test"], "adaptive takes --checkpoint --timed-batches --timed-lengths)"),
        (["--what=patterns", "--checkpoint=last"], "write best, newest or a step"),
        (["--layers=first"], "are no indices"),
        (["--what=dynamics"], "holds no checkpoint"),
        (["--what=patterns", "--workdir", "a", "b"], "looks at one run"),
        (["--workdir", "nowhere"], "does not exist: train first"),
    ],
)
def test_mistakes(logged, capsys, words, message):
    (logged / "a" / "metrics.csv").write_text("")
    assert main(["analyze", "--workdir", str(logged / "a"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
