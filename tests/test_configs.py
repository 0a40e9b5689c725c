"""Every config trains end to end in its smoke version, and its full version lowers for every platform."""

import math

import pytest

from jattn.errors import UserError
from jattn.evaluation import evaluate
from jattn.training.metrics import read_csv
from tests import commands, runs


@pytest.fixture(autouse=True)
def _cache_of_the_session(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("JATTN_CACHE", str(commands.compiled_folder(tmp_path_factory)))


@pytest.mark.parametrize("name", runs.CONFIGS)
def test_smoke_trains_and_evaluates(name, tmp_path_factory):
    folder = runs.smoke_run(tmp_path_factory, name)
    columns = read_csv(folder / "metrics.csv")
    assert columns["step"][-1] == runs.get_config(name, "smoke").steps
    losses = [loss for part in ("train", "valid") for loss in columns[f"{part}/loss"] if loss is not None]
    assert len(losses) >= 4
    assert all(math.isfinite(loss) for loss in losses)
    results = evaluate(folder, split="valid")
    assert math.isfinite(results["measures"]["loss"])


@pytest.mark.parametrize("name", runs.CONFIGS)
def test_full_config_lowers_for_cuda_and_tpu(name):
    steps = runs.full_experiment(name).parallel
    for platform in ("cuda", "tpu"):
        text = steps.lower_train_step(platform).as_text()
        assert "stablehlo.dot_general" in text
        assert f'["{platform}"]' in text or "mhlo.num_partitions" in text


@pytest.mark.parametrize("name", runs.CONFIGS)
def test_an_unknown_argument_lists_those_there_are(name):
    with pytest.raises(UserError, match=r"'smok': did you mean 'smoke'\?"):
        runs.get_config(name, "smok")
