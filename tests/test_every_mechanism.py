"""Every mechanism, by a config value alone, trains, evaluates and is restored in every task that allows it."""

import math

import jax
import pytest

from jattn.attention import MECHANISMS
from jattn.config import AttentionConfig, CheckpointConfig, LoggingConfig, ValidationConfig
from jattn.errors import UserError
from jattn.evaluation import evaluate
from jattn.training import setup, train
from jattn.training.metrics import read_csv
from tests import runs

CAUSAL = ("mqar_lm", "python_docs_lm")


@pytest.fixture(autouse=True)
def _unoptimized():
    """Models are tiny and many: XLA's optimizer would take longer than they do."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def allowed(name, task):
    return ("causal" if task in CAUSAL else "bidirectional") not in MECHANISMS[name].lacks


def smoke(task, name):
    """The smoke version of a config with this mechanism, for 20 steps."""
    config = runs.get_config(task, "smoke")
    config.model.attention, config.model.depth = AttentionConfig(name), 1
    config.steps = 20
    config.optim.learning_rate, config.optim.warmup_steps, config.optim.schedule = 1e-2, 1, "constant"
    config.validation = ValidationConfig(every=20, batches=1)
    config.checkpoint = CheckpointConfig(every=20)
    config.logging = LoggingConfig(every=5, tensorboard=False)
    return config


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("task", runs.CONFIGS)
def test_it_trains_evaluates_and_is_restored(task, name, tmp_path, tmp_path_factory):
    if not allowed(name, task):
        with pytest.raises(UserError, match=f"mechanism '{name}': .*; these have it: "):
            setup.build(smoke(task, name))
        return
    with runs.compiled_once(tmp_path_factory):
        last = train(smoke(task, name), tmp_path / "run")
        results = evaluate(tmp_path / "run", split="valid", checkpoint="newest")
    losses = [loss for loss in read_csv(tmp_path / "run" / "metrics.csv")["train/loss"] if loss is not None]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert results["step"] == 20
    assert math.isfinite(results["measures"]["loss"])
    assert math.isfinite(last["valid/loss"])


@pytest.mark.parametrize("task", ["digits_vit", "python_docs_lm"])
def test_a_config_selects_a_mechanism_by_name(task):
    for name in MECHANISMS:
        if allowed(name, task):
            experiment = setup.build(runs.get_config(task, name))
            assert {layer.name for layer in experiment.model.mechanisms()} == {name}


def test_one_model_of_all_mechanisms(tmp_path):
    config = smoke("digits_vit", "softmax")
    names = [name for name in MECHANISMS if allowed(name, "digits_vit")]
    config.model.depth, config.model.pattern, config.steps = len(names), ", ".join(names), 2
    config.validation, config.checkpoint = ValidationConfig(every=2, batches=1), CheckpointConfig(every=2)
    last = train(config, tmp_path / "run")
    assert math.isfinite(last["valid/loss"])
    text = (tmp_path / "run" / "model.txt").read_text()
    assert all(f"block_{i}" in text and name in text for i, name in enumerate(names))
