"""Statistics of attention in the log of a run."""

import numpy as np
import pytest

from jattn.analysis import patterns
from jattn.analysis.observe import observe
from jattn.errors import UserError
from jattn.training import attention_log, setup, train
from jattn.training.metrics import read_csv
from jattn.training.trained import open_trained
from tests import runs


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    config = runs.get_config("digits_vit", "smoke")
    config.logging.attention_every = 5
    folder = tmp_path_factory.mktemp("logged") / "run"
    train(config, folder)
    return folder


def test_what_is_logged_is_what_the_weights_say(logged):
    columns = read_csv(logged / "metrics.csv")
    at = {step: row for row, step in enumerate(columns["step"])}
    values = columns["attention/block_0/entropy"]
    assert [step for step, row in at.items() if values[row] is not None] == [5, 10, 12]
    trained = open_trained(logged, 12)
    seen = observe(trained.experiment, trained.params, "valid", np.arange(8))
    found = patterns.of_layer(seen.weights[0], seen.real, seen.allowed)
    for name, of_weights in (
        ("entropy", "entropy"),
        ("distance", "distance"),
        ("largest", "top_1"),
        ("first", "first"),
    ):
        logged_value = columns[f"attention/block_0/{name}"][at[12]]
        assert logged_value == pytest.approx(found[of_weights].mean(), rel=1e-4), name
    assert columns["attention/block_0/energy"][at[12]] > 0


def test_the_run_is_the_same_with_and_without(logged, tmp_path_factory):
    other = read_csv(runs.smoke_run(tmp_path_factory, "digits_vit") / "metrics.csv")
    own = read_csv(logged / "metrics.csv")
    last = {name: [v for v in other[name] if v is not None][-1] for name in ("train/loss", "valid/loss")}
    assert last == {name: [v for v in own[name] if v is not None][-1] for name in last}


def test_layers_without_scores_of_pairs_are_not_looked_at():
    config = runs.get_config("digits_vit", "conv1d,smoke")
    config.logging.attention_every = 5
    assert attention_log.build(setup.build(config)) is None


def test_an_interval_is_at_least_a_step():
    config = runs.get_config("digits_vit", "smoke")
    config.logging.attention_every = 0
    with pytest.raises(UserError, match=r"logging\.attention_every=0 must be at least 1"):
        setup.build(config)
