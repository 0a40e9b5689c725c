"""Every mechanism, by a config value alone, trains, evaluates and is restored in every task that allows it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import data, models
from jattn.attention import MECHANISMS
from jattn.attention.mechanism import mechanism
from jattn.config import AttentionConfig, CheckpointConfig, LoggingConfig, OptimConfig, ValidationConfig
from jattn.errors import UserError
from jattn.evaluation import evaluate
from jattn.models import LanguageModel
from jattn.training import loop, setup, train
from jattn.training.metrics import read_csv
from tests import runs

CAUSAL = ("mqar_lm", "python_docs_lm")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Curves take a quarter of a second a run."""
    monkeypatch.setattr(loop, "plot_curves", lambda metrics, picture: None)


def allowed(name, task):
    return ("causal" if task in CAUSAL else "bidirectional") not in MECHANISMS[name].lacks


def smoke(task, name):
    """The smoke version of a config with this mechanism, for 20 steps."""
    config = runs.get_config(task, "smoke")
    config.model.attention, config.model.depth = AttentionConfig(name), 1
    config.steps = 20
    config.optim = OptimConfig(name="adam", learning_rate=5e-3, schedule="constant")
    config.validation = ValidationConfig(every=20, batches=1)
    config.checkpoint = CheckpointConfig(every=20)
    config.logging = LoggingConfig(every=5, tensorboard=False, attention_every=None)
    return config


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("task", [task for task in runs.CONFIGS if task not in runs.FILES])
def test_it_trains_evaluates_and_is_restored(task, name, tmp_path):
    if not allowed(name, task):
        with pytest.raises(UserError, match=f"mechanism '{name}': .*; these have it: "):
            setup.build(smoke(task, name))
        return
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
    dataset = data.build(runs.get_config(task).data)
    batch = data.train_batch(dataset, 0, 0, 2)
    inputs = jax.eval_shape(
        lambda: dataset.prepare(jnp.asarray(batch["inputs"]), jnp.asarray(batch["example_id"]), None)
    )
    for name in MECHANISMS:
        if allowed(name, task):
            model = models.build(runs.get_config(task, name).model, dataset.task)
            assert {layer.name for layer in model.mechanisms()} == {name}
            jax.eval_shape(model.init, jax.random.key(0), inputs)


def test_layers_of_different_kinds_in_one_model(tmp_path):
    config = smoke("digits_vit", "softmax")
    config.model.depth, config.model.pattern, config.model.layers = 4, "softmax, convnn(K=3)", "1:conv1d, 2:neural"
    config.steps, config.validation, config.checkpoint = (
        2,
        ValidationConfig(every=2, batches=1),
        CheckpointConfig(every=2),
    )
    last = train(config, tmp_path / "run")
    assert math.isfinite(last["valid/loss"])
    words = [word.split("(")[0] for word in (tmp_path / "run" / "model.txt").read_text().split()]
    assert [word for word in words if word in MECHANISMS][:4] == ["softmax", "conv1d", "neural", "convnn"]


@pytest.mark.parametrize("name", [name for name in MECHANISMS if allowed(name, "python_docs_lm")])
def test_64_tokens_decoded_one_by_one_are_those_of_one_pass(name):
    """With spans and windows that the text outgrows, and rotary positions, which decoding has to count on."""
    options = {"local": {"window_size": 8}, "neighborhood": {"kernel_size": 7}, "kvt": {"topk": 5}, "convnn": {"K": 4}}
    options |= {"sparse": {"mode": "fixed", "context": 8}, "adaptive_span": {"max_span": 24, "periodic": True}}
    model = LanguageModel(
        vocab_size=11,
        width=16,
        depth=2,
        num_heads=2,
        positions="rotary",
        max_length=64,
        attention=mechanism(name, options.get(name, {})),
    )
    tokens = jax.random.randint(jax.random.key(1), (2, 64), 0, 11)
    decoder = model.clone(decode=True)
    initial = jax.jit(decoder.init)(jax.random.key(0), tokens)
    params, cache = {"params": nn.unbox(initial["params"])}, initial["cache"]
    expected = jax.jit(model.apply)(params, tokens)

    @jax.jit
    def decoded(cache, tokens):
        def step(cache, token):
            logits, new = decoder.apply({**params, "cache": cache}, token[:, None], mutable=["cache"])
            return new["cache"], logits[:, 0]

        return jax.lax.scan(step, cache, tokens.T)[1]

    np.testing.assert_allclose(decoded(cache, tokens).swapaxes(0, 1), expected, atol=2e-5, rtol=1e-4)
