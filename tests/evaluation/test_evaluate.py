"""Evaluation of finished runs, against numbers computed by hand."""

import io
import json
import math
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from scipy import special

import jattn
from jattn import config_json, data
from jattn.errors import UserError
from jattn.evaluation import draw, evaluate, print_table, write_results
from jattn.task import Task
from jattn.training import setup
from jattn.training.checkpoint import Checkpoints
from jattn.training.measures import measures
from tests import calls, runs

pytestmark = pytest.mark.usefixtures("experiments_are_kept")


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


def cross_entropies(logits, targets):
    return -np.take_along_axis(special.log_softmax(logits.astype(np.float64), axis=-1), targets[..., None], -1)[..., 0]


def test_a_classifier_against_one_big_batch(digits):
    experiment, params = newest_params(digits, "digits_vit")
    batch = data.eval_batch(experiment.dataset, "test", 0, 359)
    inputs = experiment.dataset.prepare(jnp.asarray(batch["inputs"]), jnp.asarray(batch["example_id"]), None)
    logits = calls.apply(experiment.model, {"params": params}, inputs, deterministic=True)
    order = np.argsort(-logits, axis=-1, kind="stable")
    hits = order == batch["targets"][:, None]
    loss = cross_entropies(logits, batch["targets"])
    results = evaluate(digits, checkpoint="newest", bins=4, timed_batches=2)
    found = results["measures"]
    assert list(found) == ["loss", "accuracy", "top5_accuracy"]
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (batch["targets"], order[:, 0]), 1)
    assert results["classes"]["confusion"] == confusion.tolist()
    confidence = special.softmax(logits, axis=-1).max(axis=-1)
    inside = [(confidence > n / 4) & (confidence <= (n + 1) / 4) for n in range(4)]
    assert [b["predictions"] for b in results["calibration"]["bins"]] == [chosen.sum() for chosen in inside]
    gaps = [abs(np.sum(hits[chosen, 0] - confidence[chosen])) for chosen in inside]
    assert results["calibration"]["expected_calibration_error"] == pytest.approx(sum(gaps) / 359, rel=1e-4)
    speed = results["speed"]
    assert speed["batch_size"] == 16
    assert speed["seconds_per_example"] * 16 == pytest.approx(speed["seconds_per_batch"])
    assert speed["examples_per_second"] * speed["seconds_per_batch"] == pytest.approx(16)
    assert "tokens_per_second" not in speed
    assert "spans" not in results
    np.testing.assert_allclose(found["loss"], np.mean(loss), rtol=1e-5)
    assert found["accuracy"] == pytest.approx(hits[:, 0].mean(), rel=1e-6)
    assert found["top5_accuracy"] == pytest.approx(hits[:, :5].any(axis=1).mean(), rel=1e-6)


def test_a_language_model_counts_each_token_of_the_split_once(docs):
    experiment, params = newest_params(docs, "python_docs_lm")
    tokens = np.asarray(experiment.dataset.tokens("test"), np.int32)
    length = 32
    nats = 0.0
    for start in range(0, len(tokens) - 1, 64 * length):  # windows of the same length, the last ones cut
        piece = tokens[start : start + 64 * length + 1]
        padded = np.zeros((64, length), np.int32)
        padded.flat[: len(piece) - 1] = piece[:-1]
        logits = calls.apply(experiment.model, {"params": params}, padded, deterministic=True)
        nats += np.sum(cross_entropies(logits.reshape(-1, logits.shape[-1])[: len(piece) - 1], piece[1:]))
    expected = nats / (len(tokens) - 1)
    results = evaluate(docs, checkpoint="newest")
    found = results["measures"]
    assert results["counted"] == len(tokens) - 1
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"], math.exp(expected), rtol=1e-4)
    np.testing.assert_allclose(found["bits_per_byte"], expected / math.log(2), rtol=1e-5)
    characters = len(tokens.astype(np.uint8).tobytes().decode())
    per_character = expected / math.log(2) * len(tokens) / characters
    np.testing.assert_allclose(found["bits_per_character"], per_character, rtol=1e-5)
    assert "classes" not in results


def test_overlapping_windows_against_the_model_itself(docs):
    """Windows of 16 with stride 11: each token is predicted from the 5 before it or more, or from all there are."""
    experiment, params = newest_params(docs, "python_docs_lm")
    tokens = np.asarray(experiment.dataset.tokens("test"), np.int32)
    starts = np.arange(0, len(tokens) - 16, 11)
    place = starts[:, None] + np.arange(16)[None]
    logits = calls.apply(experiment.model, {"params": params}, tokens[place])
    losses = cross_entropies(logits, tokens[place + 1])
    whole = evaluate(docs, checkpoint="newest", window=16, stride=11, average="windows")
    assert whole["counted"] == losses.size
    assert whole["windows"] == {"length": 16, "stride": 11, "average": "windows"}
    np.testing.assert_allclose(whole["measures"]["perplexity"], np.exp(losses.mean(axis=1).mean()), rtol=1e-5)
    once = evaluate(docs, checkpoint="newest", window=16, stride=11)
    assert once["counted"] == len(tokens) - 1
    rest = once["measures"]["loss"] * once["counted"] - losses[0].sum() - losses[1:, 5:].sum(dtype=np.float64)
    left = len(tokens) - 1 - (starts[-1] + 16)  # predicted in one more window, of which there is only a part
    assert 0 < left < 11
    assert 1 < rest / left < 9


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": 33}, "window=33 must lie between 1 and the model's context of 32 tokens"),
        ({"window": 0}, "window=0 must lie"),
        ({"stride": 33}, "stride=33 must lie between 1 and the window's 32 tokens"),
        ({"window": 8, "stride": 9}, "stride=9"),
        ({"average": "means"}, "unknown average 'means'"),
        ({"bins": 0}, "bins=0 must be at least 1"),
        ({"split": "tests"}, "unknown split 'tests'"),
    ],
)
def test_numbers_out_of_range(docs, options, says):
    with pytest.raises(UserError, match=says):
        evaluate(docs, **options)


def test_pictures_have_no_windows(digits):
    with pytest.raises(UserError, match="those of a running text"):
        evaluate(digits, stride=3)


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


def test_tables_and_pictures_show_what_there_is(digits, tmp_path):
    output = io.StringIO()
    results = evaluate(digits, checkpoint="newest", timed_batches=1)
    results["workdir"] = "runs/x"
    print_table(results, Console(file=output, width=140))
    text = output.getvalue()
    assert "runs/x: test split, 359 examples, newest checkpoint (step 12)" in text
    for shown in (
        f"{results['measures']['loss']:.4f}",
        f"{results['measures']['accuracy']:.2%}",
        f"{results['calibration']['expected_calibration_error']:.2%}",
        f"{results['speed']['seconds_per_batch']:,.4g}",
        f"{results['classes']['recall'][3]:.1%}",
    ):
        assert shown in text
    files = draw(results, tmp_path)
    assert [path.name for path in files] == ["calibration.png", "confusion.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
    del results["calibration"], results["classes"]["confusion"]
    assert draw(results, tmp_path) == []


def test_windows_and_spans_are_shown():
    results = {
        "workdir": "runs/x", "split": "test", "examples": 1200, "checkpoint": "best", "step": 7,
        "measures": {"loss": 0.12345}, "windows": {"length": 32, "stride": 8, "average": "tokens"},
        "spans": {"block_1": {"span": [6.0, 4.0], "reach": [6.0, 4.0], "period": [None, 2.5], "keys": [4.5, 3.25],
                              "removed": [0.0, 0.125], "saved": 0.25}},
    }  # fmt: skip
    output = io.StringIO()
    print_table(results, Console(file=output, width=140))
    text = output.getvalue()
    assert "(step 7), windows of 32 with stride 8, mean over tokens" in text
    rows = [line.replace("│", " ").split() for line in text.splitlines()]
    assert ["block_1", "0", "6", "4.5", "25.0%"] in rows
    assert ["1", "4", "3.2", "2.50", "12.5%"] in rows
