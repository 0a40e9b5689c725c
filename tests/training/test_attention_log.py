"""Statistics of attention in the log of a run."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.analysis import patterns
from jattn.analysis.observe import observe, prepared
from jattn.errors import UserError
from jattn.training import attention_log, setup, train
from jattn.training.metrics import read_csv
from jattn.training.run import read_config
from jattn.training.trained import open_trained
from tests import runs

pytestmark = pytest.mark.usefixtures("experiments_are_kept")

NAMES = {"entropy", "keys", "distance", "diagonal", "first", "largest", "sparsity", "energy", "energy_spread"}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    config = runs.get_config("digits_vit", "smoke")
    config.logging.attention_every = 5
    folder = tmp_path_factory.mktemp("logged") / "run"
    train(config, folder)
    return folder


def dense(experiment, params):
    """What is logged of the first examples, by name: of layers of dot products, from the matrices of all pairs."""
    examples = np.arange(attention_log.EXAMPLES)
    seen = observe(experiment, params, "valid", examples)
    inputs = prepared(experiment, "valid", examples)[1]

    @jax.jit
    def projected(params, inputs):
        keep = lambda module, _: module.name in ("query", "key")  # noqa: E731
        _, found = experiment.model.apply({"params": params}, inputs, capture_intermediates=keep, mutable=True)
        return found["intermediates"]

    found, heads = {}, projected(params, jnp.asarray(inputs))
    for layer, weights in zip(seen.layers, seen.weights, strict=True):
        of_heads = patterns.of_layer(weights, seen.real, seen.allowed)
        of_heads["largest"] = of_heads["top_1"]
        of_block = {name: of_heads[name].mean() for name in NAMES & set(of_heads)}
        q, k = (
            np.asarray(heads[f"block_{layer}"]["attention"][name]["__call__"][0], np.float64)
            for name in ("query", "key")
        )
        scores = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(q.shape[-1])
        pairs = np.broadcast_to((seen.allowed & seen.real[..., None])[:, None], scores.shape)
        of_block |= {"energy": np.abs(scores[pairs]).mean(), "energy_spread": scores[pairs].std()}
        found |= {f"attention/block_{layer}/{name}": value for name, value in of_block.items()}
    return found


@pytest.mark.parametrize(("name", "pooling"), [("python_docs_lm", "mean"), ("listops_classifier", "class_token")])
def test_what_is_logged_is_what_the_matrices_say(name, pooling):
    """Of a causal model, and of one of padded texts with a class token."""
    config = runs.get_config(name, "smoke")
    config.logging.attention_every = 5
    config.model.positions = "learned"  # queries and keys are the projections then
    config.model.pooling = pooling
    experiment = setup.build(config)
    # Six times the initial kernels of queries and keys: else attention is nearly uniform, and nothing is sparse.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (6 if "query" in str(path) or "key" in str(path) else 1),
        experiment.parallel.init_state().params,
    )
    found, expected = attention_log.build(experiment)(params), dense(experiment, params)
    assert set(found) == set(expected) == {f"attention/block_{i}/{n}" for i in range(config.model.depth) for n in NAMES}
    assert found == pytest.approx(expected, rel=1e-4)
    assert 0.05 < expected["attention/block_0/sparsity"] < 0.95


def test_the_log_of_a_run(logged):
    columns = read_csv(logged / "metrics.csv")
    at = {step: row for row, step in enumerate(columns["step"])}
    values = columns["attention/block_0/entropy"]
    assert [step for step, row in at.items() if values[row] is not None] == [5, 10, 12]
    trained = open_trained(logged, 12)
    expected = dense(trained.experiment, trained.params)
    assert {name: columns[name][at[12]] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_a_run_of_before_new_columns_continues(logged, tmp_path):
    """Its rows from then are empty there, those since are what they would have been."""
    folder = tmp_path / "run"
    shutil.copytree(logged, folder)
    new = [f"attention/block_0/{name}" for name in ("keys", "diagonal", "sparsity", "energy_spread")]
    whole = read_csv(folder / "metrics.csv")
    kept = [name for name in whole if name not in new]
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    lines = [",".join(field for name, field in zip(whole, line, strict=True) if name in kept) for line in lines]
    (folder / "metrics.csv").write_text("".join(f"{line}\n" for line in lines))
    shutil.rmtree(folder / "checkpoints" / "12")
    train(read_config(folder), folder)
    continued = read_csv(folder / "metrics.csv")
    assert list(continued) == list(whole)
    assert {name: continued[name] for name in kept} == {name: whole[name] for name in kept}
    after = [step > 6 for step in whole["step"]]
    for name in new:
        assert continued[name] == [value if late else None for value, late in zip(whole[name], after, strict=True)]
        assert any(value is not None for value in continued[name])


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
