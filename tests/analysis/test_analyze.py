"""`python -m jattn analyze` on trained runs, against the fast path, gradients and closed forms."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import data, models
from jattn.__main__ import main
from jattn.analysis import criticality, curvature, of_adaptive, patterns
from jattn.analysis.depth import SMALL, states, with_and_without
from jattn.analysis.observe import observe, parse_examples, prepared
from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from jattn.models.classifier import TextClassifier
from jattn.training import setup
from jattn.training.trained import Trained, open_trained
from tests import calls, runs

pytestmark = pytest.mark.usefixtures("experiments_are_kept")

EXAMPLES = np.array([5, 2, 11])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A copy of a trained run, so that files may be written to it."""
    folder = tmp_path_factory.mktemp("analyze") / "run"
    shutil.copytree(runs.smoke_run(tmp_path_factory, "digits_vit"), folder)
    return folder


@pytest.fixture(scope="module")
def trained(run):
    return open_trained(run)


@pytest.fixture(scope="module")
def seen(trained):
    return observe(trained.experiment, trained.params, "valid", EXAMPLES)


def test_statistics_are_those_of_the_fast_path(trained, seen):
    inputs = jnp.asarray(prepared(trained.experiment, "valid", EXAMPLES)[1])

    @jax.jit
    def statistics(params, x):
        _, sown = trained.experiment.model.apply({"params": params}, x, mutable=["intermediates"])
        return sown["intermediates"]["block_0"]["attention"]["statistics"][0]

    rows = statistics(trained.params, inputs)
    found = patterns.of_layer(seen.weights[0], seen.real, seen.allowed)
    for name, of_core in (("entropy", "entropy"), ("distance", "distance"), ("first", "first"), ("top_1", "largest")):
        np.testing.assert_allclose(found[name], np.mean(getattr(rows, of_core), (0, 2)), rtol=1e-4, err_msg=name)


def test_layers_and_heads_are_chosen(trained, seen):
    found = observe(trained.experiment, trained.params, "valid", EXAMPLES[:1], layers=[0], heads=[1])
    np.testing.assert_allclose(found.weights[0], seen.weights[0][:1, 1:], atol=1e-6)
    assert (found.heads, found.whole, seen.whole) == ([[1]], False, True)


def test_layers_come_in_the_order_of_the_model():
    config = runs.get_config("digits_vit", "smoke")
    config.model.depth = 2
    experiment = setup.build(config)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), experiment.parallel.abstract_state.params)
    found = observe(experiment, params, "valid", EXAMPLES[:1], layers=[1, 0])
    # Rollout and cascades follow them one after another.
    assert (found.layers, found.whole) == ([0, 1], True)


def test_examples(trained):
    dataset = trained.experiment.dataset
    np.testing.assert_array_equal(parse_examples("3", dataset, "valid"), [0, 1, 2])
    np.testing.assert_array_equal(parse_examples("3,", dataset, "valid"), [3])
    np.testing.assert_array_equal(parse_examples("7,1", dataset, "valid"), [7, 1])


def test_every_file_of_a_run(run, capsys):
    what = ["patterns", "dynamics", "energies", "criticality"]
    assert main(["analyze", "--workdir", str(run), "--what", *what, "--examples=2"]) == 0
    folder = run / "analysis"
    written = json.loads((folder / "patterns.json").read_text())
    assert np.asarray(written["rollout"]).sum((1, 2)) == pytest.approx([1.0] * 2)
    assert np.load(folder / "patterns.npz")["layer_0"].shape == (2, 2, 16, 16)
    dynamics = json.loads((folder / "dynamics.json").read_text())
    assert dynamics["steps"] == sorted(int(p.name) for p in (run / "checkpoints").iterdir())
    of_best = dynamics["layers"]["0"]["entropy"][dynamics["steps"].index(written["step"])]
    assert of_best == pytest.approx(written["layers"][0]["entropy"])
    energies = json.loads((folder / "energies.json").read_text())
    assert np.mean(energies["energy_of_examples"]) == pytest.approx(energies["energy"][0])
    critical = json.loads((folder / "criticality.json").read_text())
    assert len(critical["growth"]["per_layer"]) == len(critical["sweep"]) == 1
    assert len(critical["cascades"]["sizes"]) == 2 * 16
    drawn = {path.stem for path in folder.glob("*.png")}
    assert {f"patterns-{name}" for name in ("maps", "spread", "example0", "heads", "similarity", "rollout")} <= drawn
    assert "softmax" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers=4"], "layer 4 does not exist: the model has layers 0 to 0"),
        (["--heads=1,7"], "head 7 does not exist: these layers have heads 0 to 1"),
        (["--examples=0"], "asks for none"),
        (["--examples=1,9999"], "example 9999 does not exist"),
        (["--split=tset"], "unknown split 'tset'"),
        (["--checkpoint=5"], "holds no checkpoint 5"),
        (["--what=adaptive", "--split=test", "--timed-batches=1"], "has no layer of adaptive span"),
    ],
)
def test_mistakes(run, capsys, words, message):
    assert main(["analyze", "--workdir", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_that_has_saved_nothing_yet(run, tmp_path, capsys):
    shutil.copy(run / "config.json", tmp_path)
    assert main(["analyze", "--workdir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'checkpoints'} holds no checkpoint" in error
    assert error.count("\n") == 1


def test_energies_and_curvature(trained):
    experiment = trained.experiment
    found = curvature.measure(experiment, trained.params, "valid", EXAMPLES)
    batch, inputs = jax.tree.map(jnp.asarray, prepared(experiment, "valid", EXAMPLES))

    def loss(block, n):
        logits = experiment.model.apply({"params": trained.params | {"block_0": block}}, inputs[n][None])
        return -jax.nn.log_softmax(logits)[0, batch["targets"][n]]

    rows = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(trained.params["block_0"], jnp.arange(3))
    flat = np.concatenate([np.reshape(leaf, (3, -1)) for leaf in jax.tree.leaves(rows)], 1)
    np.testing.assert_allclose(found.squared_gradient[:, 0], (flat**2).sum(1), rtol=1e-3)
    np.testing.assert_allclose(found.mean_gradient[0], np.linalg.norm(flat.mean(0)), rtol=1e-3)
    # The trace of the Fisher matrix is the sum of its diagonal, E[g^2] of each parameter.
    np.testing.assert_allclose(found.fisher[0], (flat**2).mean(0).sum(), rtol=1e-3)
    assert found.params[0] == flat.shape[1]


def test_correlations():
    found = curvature.correlations(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 9.0, 16.0]))
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(25 / np.sqrt(5 * 129))
    assert curvature.correlations(np.ones(4), np.arange(4.0))["pearson"] is None


def test_a_perturbation_in_a_model_that_changes_nothing(trained):
    # With all parameters zero, blocks add nothing: what is changed stays as large.
    model = trained.experiment.model
    inputs = prepared(trained.experiment, "valid", EXAMPLES)[1]
    kick = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    embedding = trained.params | {"block_0": jax.tree.map(np.zeros_like, trained.params["block_0"])}
    both = jax.jit(lambda params, x, kick: [states(model, params, x, k) for k in (None, kick)])
    alone, changed = jax.device_get(both(embedding, inputs, kick))
    size = [np.linalg.norm(x.reshape(3, -1), axis=1) for x in (alone[0], changed[0] - alone[0])]
    np.testing.assert_allclose(size[1], SMALL * size[0], rtol=1e-3)
    np.testing.assert_allclose(criticality.growth(alone, changed), 0.0, atol=1e-5)


def test_padding_takes_no_part_in_the_growth_of_a_perturbation():
    model = TextClassifier(vocab_size=11, num_outputs=2, max_length=7, depth=1, width=8, num_heads=2, padding_token=0)
    # The last text is nothing but padding.
    tokens = np.zeros((3, 7), np.int32)
    tokens[:2, :4] = [[3, 5, 2, 7], [1, 9, 4, 0]]
    real = tokens > 0
    params = calls.init(model, tokens)["params"]
    alone, changed = with_and_without(model, params, tokens, real)
    np.testing.assert_array_equal(changed[0][~real], alone[0][~real])
    lengths = [[np.linalg.norm((b - a)[n, real[n]]) for n in (0, 1)] for a, b in zip(alone, changed, strict=True)]
    own = [np.linalg.norm(alone[0][n, real[n]]) for n in (0, 1)]
    np.testing.assert_allclose(lengths[0], SMALL * np.array(own), rtol=1e-3)
    np.testing.assert_allclose(criticality.growth(alone, changed, real), [np.mean(np.log(np.divide(*lengths[::-1])))])


def _zeros(text, name="digits_vit", data=""):
    """A config's experiment with such an attention, and parameters that are all zero."""
    config = runs.get_config(name, "adaptive_span,smoke")
    config.data.options = data or config.data.options
    config.model.attention.options = text
    experiment = setup.build(config)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), experiment.parallel.abstract_state.params)
    return Trained(experiment, params, 0)


def test_adaptive(tmp_path):
    small = _zeros("max_span=8, softness=2")
    found = of_adaptive.of_run(tmp_path, small)
    # z = max_span sigmoid(0) = 4, so 4 + 2 is the first distance that is masked: 0 to 5, on both sides.
    assert found["layers"][0]["span"] == [6.0, 6.0]
    pairs = 16 + 2 * sum(16 - r for r in range(1, 6))
    assert found["totals"]["keys"] == pytest.approx(pairs / 16)
    assert found["totals"]["keys_of_all"] == pytest.approx(16.0)
    assert found["totals"]["removed"] == 0.0
    longest = Trained(small.experiment, of_adaptive.with_longest_spans(small.params), 0)
    assert of_adaptive.of_run(tmp_path, longest)["layers"][0]["span"] == [8.0, 8.0]
    wave = of_adaptive.of_run(tmp_path, _zeros("max_span=8, softness=2, periodic=True, period_min=2, period_max=8"))
    assert 0 < wave["totals"]["removed"] < 1
    assert wave["totals"]["keys"] == pytest.approx((1 - wave["totals"]["removed"]) * pairs / 16)


def test_what_a_causal_layer_skips_anyway_is_not_saved_by_spans(tmp_path):
    text = _zeros("max_span=2048", "python_docs_lm", "sequence_length=1024")
    assert of_adaptive.of_run(tmp_path, text)["totals"]["flops_saved"] == 0.0
    short = _zeros("max_span=64", "python_docs_lm", "sequence_length=1024")
    assert 0.1 < of_adaptive.of_run(tmp_path, short)["totals"]["flops_saved"] < 1.0


def test_time_at_lengths_beyond_that_of_training():
    text = _zeros("max_span=8", "python_docs_lm")
    found = of_adaptive.at_lengths({"a": text}, [text.experiment.model.max_length + 8])
    ((length, timed),) = found["a"].items()
    assert length == 40
    assert 0 < timed["quartiles"][0] <= timed["median"] <= timed["quartiles"][1]
    with pytest.raises(UserError, match="a has positions 'learned' and is of kind image: only language models"):
        of_adaptive.at_lengths({"a": _zeros("max_span=8")}, [40])


@pytest.mark.parametrize("name", ["convnn", "conv1d", "super", "branching_attention"])
def test_mechanisms_of_other_kinds_have_weights(name):
    """Abstractly: shapes are those of (N, H, T, S) and come where they are looked for."""
    config = runs.get_config("digits_vit", f"{name},smoke")
    dataset = data.build(config.data)
    model = models.build(config.model, dataset.task)
    x = jnp.zeros((2, 8, 8, 1))

    def weights(key):
        variables = model.init(key, x)
        _, sown = model.apply({"params": variables["params"]}, x, mutable=["intermediates"])
        return sown["intermediates"]["block_0"]["attention"]["weights"][-1]

    heads = model.mechanisms()[0].module(num_heads=model.num_heads).num_heads
    assert jax.eval_shape(weights, jax.random.key(0)).shape == (2, heads, 16, 16)


def test_a_layer_without_energies_has_no_curvature(trained):
    model = trained.experiment.model.clone(attention=mechanism("conv1d", {"kernel_size": 3}))
    experiment = setup.Experiment(**{**vars(trained.experiment), "model": model})
    with pytest.raises(UserError, match=r"layer 0 is conv1d.*no energies"):
        curvature.measure(experiment, trained.params, "valid", EXAMPLES)
