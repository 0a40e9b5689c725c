"""Evaluation of finished runs, against numbers computed by hand."""

import io
import json
import math
import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import jattn
from jattn import config_json, data
from jattn.errors import UserError
from jattn.evaluation import evaluate, measures, print_table, write_results
from jattn.task import Task
from jattn.training import setup
from jattn.training.checkpoint import Checkpoints
from tests import runs


@pytest.fixture(autouse=True)
def compiled_once(tmp_path_factory):
    with runs.compiled_once(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return runs.smoke_run(tmp_path_factory, "digits_vit")


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    return runs.smoke_run(tmp_path_factory, "python_docs_lm")


def newest_params(folder, name):
    experiment = setup.build(runs.get_config(name, "smoke"))
    checkpoints = Checkpoints(folder / "checkpoints", experiment.config.checkpoint, warn=pytest.fail, read_only=True)
    return experiment, checkpoints.restore(experiment.parallel.abstract_state)[0].params


def test_a_classifier_against_one_big_batch(digits):
    experiment, params = newest_params(digits, "digits_vit")
    batch = data.eval_batch(experiment.dataset, "test", 0, 359)
    inputs = experiment.dataset.prepare(jnp.asarray(batch["inputs"]), jnp.asarray(batch["example_id"]), None)
    logits = np.asarray(experiment.model.apply({"params": params}, inputs, deterministic=True))
    order = np.argsort(-logits, axis=-1, kind="stable")
    hits = order == batch["targets"][:, None]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    found = evaluate(digits, checkpoint="newest")["measures"]
    assert list(found) == ["loss", "accuracy", "top5_accuracy"]
    np.testing.assert_allclose(found["loss"], np.mean(loss), rtol=1e-5)
    assert found["accuracy"] == pytest.approx(hits[:, 0].mean(), rel=1e-6)
    assert found["top5_accuracy"] == pytest.approx(hits[:, :5].any(axis=1).mean(), rel=1e-6)


def test_a_language_model_counts_each_token_of_the_split_once(docs):
    experiment, params = newest_params(docs, "python_docs_lm")
    tokens = np.asarray(experiment.dataset.tokens("test"), np.int32)
    length = 32
    nats = 0.0
    for start in range(0, len(tokens) - 1, 64 * length):  # windows of the same length, the last one cut
        piece = tokens[start : start + 64 * length + 1]
        padded = np.zeros(-(-(len(piece) - 1) // length) * length, np.int32)
        padded[: len(piece) - 1] = piece[:-1]
        logits = experiment.model.apply({"params": params}, jnp.asarray(padded.reshape(-1, length)), deterministic=True)
        flat = logits.reshape(-1, logits.shape[-1])[: len(piece) - 1]
        losses = optax.softmax_cross_entropy_with_integer_labels(flat, jnp.asarray(piece[1:]))
        nats += float(np.sum(np.asarray(losses, np.float64)))
    expected = nats / (len(tokens) - 1)
    results = evaluate(docs, checkpoint="newest")
    found = results["measures"]
    assert results["counted"] == len(tokens) - 1
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"], math.exp(expected), rtol=1e-4)
    np.testing.assert_allclose(found["bits_per_byte"], expected / math.log(2), rtol=1e-5)


def test_results_say_what_was_evaluated(digits):
    results = evaluate(digits)
    config = runs.get_config("digits_vit", "smoke")
    assert {name: results[name] for name in ("split", "examples", "counted", "checkpoint", "jattn")} == {
        "split": "test",
        "examples": 359,
        "counted": 359,
        "checkpoint": "best",
        "jattn": jattn.__version__,
    }
    assert results["config_hash"] == config_json.config_hash(config)
    losses = {step: evaluate(digits, "valid", step)["measures"]["loss"] for step in (6, 12)}
    assert len(set(losses.values())) == 2
    assert evaluate(digits, "train", 6)["examples"] == 1258


def test_results_json_is_replaced_at_once(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text("old")
    results = evaluate(tmp_path / "run")
    assert (tmp_path / "run" / "results.json").read_text() == "old"
    path = write_results(results, tmp_path / "run")
    assert json.loads(path.read_text()) == results
    assert not list((tmp_path / "run").glob("*.part"))


def test_results_that_cannot_be_written_are_a_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot write to"):
        write_results({}, tmp_path / "nowhere")


def test_a_damaged_checkpoint_is_named_and_left_where_it_is(digits, tmp_path, capsys):
    shutil.copytree(digits, tmp_path / "run")
    broken = tmp_path / "run" / "checkpoints" / "12" / "info" / "metadata"
    broken.write_text("{}")
    assert evaluate(tmp_path / "run", checkpoint="newest")["step"] == 6
    assert f"checkpoint 12 is damaged: {broken}" in capsys.readouterr().err
    assert broken.read_text() == "{}"


@pytest.mark.parametrize(
    ("sums", "task", "expected"),
    [
        ({"loss": (6.0, 4.0), "accuracy": (3, 4)}, Task(kind="image"), {"loss": 1.5, "accuracy": 0.75}),
        (
            {"loss": (4 * math.log(2), 2.0)},
            Task(kind="language"),
            {"loss": 2 * math.log(2), "perplexity": 4.0, "bits_per_token": 2.0},
        ),
        (
            {"loss": (4 * math.log(2), 2.0)},
            Task(kind="language", tokens_per_byte=0.25),
            {"loss": 2 * math.log(2), "perplexity": 4.0, "bits_per_token": 2.0, "bits_per_byte": 0.5},
        ),
        ({"loss": (1e6, 1.0)}, Task(kind="language"), {"perplexity": math.inf}),
    ],
)
def test_measures(sums, task, expected):
    found = measures(sums, task)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    if math.isfinite(found.get("perplexity", 1.0)):
        assert found.keys() == expected.keys()


def test_the_table_shows_every_measure():
    output = io.StringIO()
    results = {
        "workdir": "runs/x", "split": "test", "examples": 1200, "checkpoint": "best", "step": 7,
        "measures": {"loss": 0.12345, "accuracy": 0.5},
    }  # fmt: skip
    print_table(results, Console(file=output, width=100))
    text = output.getvalue()
    assert "runs/x: test split, 1,200 examples, best checkpoint (step 7)" in text
    assert "0.1235" in text
    assert "50.00%" in text
