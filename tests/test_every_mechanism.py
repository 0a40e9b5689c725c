"""Every mechanism, by a config value alone, trains, evaluates and is restored in every task."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import data, models
from jattn.attention import MECHANISMS
from jattn.attention.mechanism import mechanism
from jattn.config import CheckpointConfig, LoggingConfig, OptimConfig, ValidationConfig
from jattn.evaluation import evaluate
from jattn.models import LanguageModel
from jattn.training import loop, train
from jattn.training.metrics import read_csv
from jattn.training.trained import open_trained
from tests import calls, runs

TASKS = [task for task in runs.CONFIGS if task not in runs.FILES]
PARTS = 2
"""Models of a task that have all mechanisms between them."""

pytestmark = pytest.mark.usefixtures("experiments_are_kept")


@pytest.fixture(autouse=True, scope="module")
def _programs_are_not_written():
    """Nobody reads them again, and those of whole models are large."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 60)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Curves take a quarter of a second a run."""
    monkeypatch.setattr(loop, "plot_curves", lambda metrics, picture: None)


def smoke(task, *names):
    """The smoke version of a config for 20 steps, with a layer of each of these mechanisms."""
    config = runs.get_config(task, "smoke")
    config.model.pattern, config.model.depth = ", ".join(names), len(names)
    config.steps = 20
    config.optim = OptimConfig(name="adam", learning_rate=5e-3, schedule="constant")
    config.validation = ValidationConfig(every=20, batches=1)
    config.checkpoint = CheckpointConfig(every=20)
    config.logging = LoggingConfig(every=5, tensorboard=False, attention_every=None)
    return config


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("task", TASKS)
def test_it_trains_evaluates_and_is_restored(task, part, tmp_path):
    """As layers of few models: in a run each, more would be compiled for embeddings, heads and updates of weights."""
    names = list(MECHANISMS)[part::PARTS]
    last = train(smoke(task, *names), tmp_path / "run")
    results = evaluate(tmp_path / "run", split="valid", checkpoint="newest")
    losses = [loss for loss in read_csv(tmp_path / "run" / "metrics.csv")["train/loss"] if loss is not None]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert results["step"] == 20
    assert math.isfinite(results["measures"]["loss"])
    assert math.isfinite(last["valid/loss"])
    words = [word.split("(")[0] for word in (tmp_path / "run" / "model.txt").read_text().split()]
    assert [word for word in words if word in MECHANISMS][: len(names)] == names
    trained = open_trained(tmp_path / "run", "newest")
    initial = trained.experiment.parallel.init_state()
    for layer, name in enumerate(names):
        before, after = (jax.device_get(run.params[f"block_{layer}"]["attention"]) for run in (initial, trained))
        changes = jax.tree.map(lambda old, new: np.abs(new - old).max(), before, after)
        for path, change in jax.tree_util.tree_leaves_with_path(changes):
            leaf = f"{name}{jax.tree_util.keystr(path)}"
            assert np.isfinite(change), f"{leaf} is not finite"
            assert change > 5e-3 or "bias" in leaf, f"{leaf} learns nothing"  # a score's bias need not


@pytest.mark.parametrize("task", ["digits_vit", "python_docs_lm"])
def test_a_config_selects_a_mechanism_by_name(task):
    dataset = data.build(runs.get_config(task).data)
    batch = data.train_batch(dataset, 0, 0, 2)
    inputs = jax.eval_shape(
        lambda: dataset.prepare(jnp.asarray(batch["inputs"]), jnp.asarray(batch["example_id"]), None)
    )
    for name in MECHANISMS:
        config = runs.get_config(task, name).model
        config.depth = 1
        model = models.build(config, dataset.task)
        assert {layer.name for layer in model.mechanisms()} == {name}
        jax.eval_shape(model.init, jax.random.key(0), inputs)


@pytest.mark.parametrize("name", MECHANISMS)
def test_64_tokens_decoded_one_by_one_are_those_of_one_pass(name):
    """With spans and windows that the text outgrows, and rotary positions, which decoding has to count on."""
    options = {"local": {"window_size": 8}, "neighborhood": {"kernel_size": 7}, "kvt": {"topk": 5}, "convnn": {"K": 4}}
    options |= {"sparse": {"mode": "fixed", "context": 8}, "adaptive_span": {"max_span": 24, "periodic": True}}
    model = LanguageModel(
        vocab_size=11,
        width=16,
        depth=1,
        num_heads=2,
        positions="rotary",
        max_length=64,
        attention=mechanism(name, options.get(name, {})),
    )
    tokens = np.random.default_rng(1).integers(0, 11, (2, 64))
    params, decoder = calls.random_variables(model, tokens), model.clone(decode=True)

    @jax.jit
    def both(params, cache, tokens):
        def step(cache, token):
            logits, new = decoder.apply({**params, "cache": cache}, token[:, None], mutable=["cache"])
            return new["cache"], logits[:, 0]

        return model.apply(params, tokens), jax.lax.scan(step, cache, tokens.T)[1].swapaxes(0, 1)

    expected, decoded = both(params, calls.empty_cache(model, tokens), tokens)
    np.testing.assert_allclose(decoded, expected, atol=2e-5, rtol=1e-4)
