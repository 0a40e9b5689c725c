"""The attention-informed optimizer: its formulas, its place in the chain, and all that a run does around it."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jattn import data, optim
from jattn.config import Config, OptimConfig
from jattn.errors import UserError
from jattn.optim.attention_informed import attention_informed, mean_energy
from jattn.optim.build import build
from jattn.training import setup, train
from jattn.training.metrics import read_csv
from jattn.training.state import TrainState
from jattn.training.step import make_train_step
from jattn.verify import optimizer_cases, read
from tests import runs
from tests.training.made_up import Data, Model, batch

ROOT = Path(__file__).parents[2]
GOLDEN = [ROOT / "tests" / "golden", *map(Path, filter(None, [os.environ.get("JATTN_GOLDEN")]))]
RECORDED = {path.stem: path for folder in GOLDEN for path in sorted(folder.glob("natural_opt_*.npz"))}

PARAMS = {
    "embedding": {"embedding": np.array([1.0, -2.0])},
    "block_0": {"attention": {"query": {"kernel": np.array([[0.5, 3.0]])}}, "norm": {"scale": np.array([2.0])}},
    "block_1": {
        "attention": {"value": {"kernel": np.array([[1.0, -1.0]]), "bias": np.array([0.25])}},
        "mlp": {"kernel": np.array([[4.0]])},
    },
    "block_10": {"kernel": np.array([[7.0]])},
}
ENERGIES = {"block_0": {"attention": {"energy": (0.5,)}}, "block_1": {"attention": {"energy": (3.0,)}}}
FACTORS = {"block_0": 1 + np.tanh(0.4 * 0.5), "block_1": 1 + np.tanh(0.4 * 3.0)}


def floats(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def updated(tx, updates=PARAMS, energies=ENERGIES, **extra):
    """What becomes of the updates, compiled."""
    updates = floats(updates)
    run = jax.jit(lambda updates, energies, extra: tx.update(updates, tx.init(updates), energies=energies, **extra))
    return run(updates, floats(energies), floats(extra))[0]


def assert_close(actual, expected, rtol=2e-6):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7), actual, expected)


def times(factors, tree=PARAMS):
    by_block = {name: factors.get(name, 1.0) for name in tree}
    return {name: jax.tree.map(lambda x, name=name: by_block[name] * x, part) for name, part in tree.items()}


def test_gradients_are_scaled_by_the_energy_of_their_block():
    """Norm and mlp included; embedding and block_10, whose name begins like block_1's, are not of any."""
    assert_close(updated(attention_informed(0.4)), times(FACTORS))


def test_updates_are_mixed_with_scaled_ones():
    tx = attention_informed(0.4, placement="update", mix=0.25)
    assert_close(updated(tx), times({name: 0.25 + 0.75 * factor for name, factor in FACTORS.items()}))


def test_the_paper_adds_the_attention_gradient_of_values():
    of_values = {"block_1": {"attention": {"value": {"kernel": np.array([[10.0, 20.0]]), "bias": np.array([-5.0])}}}}
    found = updated(attention_informed(form="paper", gamma=0.5), attention_gradients=of_values)
    share = 1 / (1 + np.exp(-0.5 * 3.0))
    expected = jax.tree.map(np.copy, PARAMS)
    value = expected["block_1"]["attention"]["value"]
    value["kernel"] = share * value["kernel"] + (1 - share) * np.array([[10.0, 20.0]])
    value["bias"] = share * value["bias"] + (1 - share) * np.array([-5.0])
    assert_close(found, expected)


def test_defaults_are_the_sources():
    assert optim.attention_informed is attention_informed
    assert_close(updated(attention_informed()), times({"block_0": 1 + np.tanh(0.05), "block_1": 1 + np.tanh(0.3)}))


def test_a_parameter_takes_the_nearest_energy_and_the_mean_of_several_calls():
    energies = ENERGIES | {"energy": (9.0,), "block_1": {"attention": {"energy": (1.0, 2.0, 6.0)}}}
    all_of_them = 1 + np.tanh(0.4 * 9.0)
    expected = {"embedding": all_of_them, "block_10": all_of_them, **FACTORS}
    assert_close(updated(attention_informed(0.4), energies=energies), times(expected))


def test_the_energy_of_a_module_without_a_block_is_that_of_everything():
    for energies in ({"energy": (3.0,)}, {"attention": {"energy": (3.0,)}}):
        found = updated(attention_informed(0.4), energies=energies)
        assert_close(found, jax.tree.map(lambda x: FACTORS["block_1"] * x, PARAMS))


def test_stacked_layers_have_an_energy_each():
    """As `nn.scan` gives them."""
    params = {"blocks": {"kernel": np.ones((2, 3, 1)), "bias": np.ones((2, 3))}, "head": np.ones(2)}
    energies = {"blocks": {"attention": {"energy": (np.array([0.5, 3.0]),)}}}
    factors = np.array([FACTORS["block_0"], FACTORS["block_1"]])
    expected = {
        "blocks": {"kernel": factors[:, None, None] * np.ones((2, 3, 1)), "bias": factors[:, None] * np.ones((2, 3))},
        "head": np.ones(2),
    }
    assert_close(updated(attention_informed(0.4), params, energies), expected)
    assert float(mean_energy(floats(energies | {"a": {"energy": (1.0,)}}))) == pytest.approx(1.5)


def test_the_dtype_of_updates_is_kept():
    updates = {"a": jnp.ones(3, jnp.bfloat16)}
    tx = attention_informed(0.4)
    found, _ = tx.update(updates, tx.init(updates), energies={"energy": (jnp.asarray(3.0),)})
    assert found["a"].dtype == jnp.bfloat16


def test_it_goes_through_optaxs_wrappers():
    """Chain, mask, partition and hyperparameters hand the energies on; what a mask hides stays."""
    first_blocks = {name: name != "block_1" for name in PARAMS}
    tx = optax.chain(
        optax.masked(attention_informed(0.4), lambda params: {name: first_blocks[name] for name in params}),
        optax.partition(
            {"all": optax.inject_hyperparams(optax.sgd)(-1.0)}, lambda params: dict.fromkeys(params, "all")
        ),
    )
    assert_close(updated(tx), times({"block_0": FACTORS["block_0"]}))


def test_energies_that_nobody_reports_are_an_error():
    for energies in ({}, None):
        with pytest.raises(UserError, match="needs energies, and no layer of the model reports any: use a mechanism"):
            attention_informed().update(PARAMS, optax.EmptyState(), energies=energies)
    with pytest.raises(UserError, match=r"form='paper' .* needs a value projection .* no layer has it"):
        attention_informed(form="paper").update(PARAMS, optax.EmptyState(), energies=ENERGIES, attention_gradients={})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "updates"}, "unknown placement of attention_informed 'updates': did you mean 'update'"),
        ({"form": "papre"}, "unknown form of attention_informed 'papre': did you mean 'paper'"),
        (
            {"energy_scale": -0.1},
            "energy_scale=-0.1 of attention_informed is out of range: it must be finite and not n",
        ),
        ({"energy_scale": float("nan")}, "energy_scale=nan"),
        ({"mix": 1.5}, "mix=1.5 of attention_informed is out of range: it must be between 0 and 1"),
        ({"gamma": float("inf")}, "gamma=inf"),
    ],
)
def test_what_a_caller_can_get_wrong(options, message):
    with pytest.raises(UserError, match=message):
        attention_informed(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_informed": "gradients"}, "unknown optim.attention_informed 'gradients': did you mean 'gradient'"),
        ({"energy_scale": -1.0}, "optim.energy_scale=-1.0 is out of range: it must be finite and not negative"),
        ({"energy_mix": 2.0}, "optim.energy_mix=2.0 is out of range: it must be between 0 and 1"),
        ({"energy_gamma": float("nan")}, "optim.energy_gamma=nan is out of range"),
    ],
)
def test_what_a_user_can_get_wrong(options, message):
    with pytest.raises(UserError, match=message):
        build(OptimConfig(**options), 10)


KERNEL = {"kernel": np.array([[3.0, -4.0]])}
"""Of norm 5: clipping to 1 divides it by 5."""


def step_of(gradient=KERNEL, attention_gradients=None, **options):
    """The parameters' change in one step of a chain from options, at a learning rate of 1, from a kernel of ones."""
    config = OptimConfig(**{"name": "sgd", "momentum": 0.0, "schedule": "constant", "learning_rate": 1.0} | options)
    optimizer = build(config, 10)
    assert optimizer.reads_energies
    params = jax.tree.map(jnp.ones_like, floats(gradient))
    extra = {} if attention_gradients is None else {"attention_gradients": floats(attention_gradients)}
    extra |= {"energies": {"energy": (jnp.asarray(2.0),)}, "value": jnp.ones(())}
    update = jax.jit(lambda gradient, extra: optimizer.tx.update(gradient, optimizer.tx.init(params), params, **extra))
    return np.asarray(update(floats(gradient), extra)[0]["kernel"])


def test_the_order_of_the_chain():
    """Clip, scale gradient, Adam, scale update, weight decay, learning rate."""
    gradient, factor = KERNEL["kernel"], 1 + np.tanh(0.1 * 2.0)
    common = {"clip_norm": 1.0, "weight_decay": 0.5}
    found = step_of(attention_informed="gradient", **common)
    np.testing.assert_allclose(found, -(factor * gradient / 5 + 0.5), rtol=1e-6)
    l2 = {"name": "sgd", "decay_coupling": "l2"}
    np.testing.assert_allclose(step_of(attention_informed="gradient", **common, **l2), found, rtol=1e-6)
    found = step_of(attention_informed="update", energy_mix=0.25, **common)
    np.testing.assert_allclose(found, -((0.25 + 0.75 * factor) * gradient / 5 + 0.5), rtol=1e-6)
    adam = {"name": "adamw", "epsilon": 0.2, "beta1": 0.0}
    found = step_of(attention_informed="gradient", **common, **adam)
    scaled = factor * gradient / 5
    np.testing.assert_allclose(found, -(scaled / (np.abs(scaled) + 0.2) + 0.5), rtol=1e-4)
    found = step_of(attention_informed="update", energy_mix=0.0, **common, **adam)
    plain = gradient / 5
    np.testing.assert_allclose(found, -(factor * plain / (np.abs(plain) + 0.2) + 0.5), rtol=1e-4)
    # The attention gradient is clipped by its own norm.
    share = 1 / (1 + np.exp(-1.5 * 2.0))
    paper = {"attention_informed": "paper", "energy_gamma": 1.5}
    found = step_of(attention_gradients={"kernel": np.array([[0.0, 10.0]])}, **paper, **common)
    np.testing.assert_allclose(found, -(share * plain + (1 - share) * np.array([[0.0, 1.0]]) + 0.5), rtol=1e-6)
    found = step_of(attention_gradients={"kernel": np.array([[0.0, 10.0]])}, **paper)
    np.testing.assert_allclose(found, -(share * gradient + (1 - share) * np.array([[0.0, 10.0]])), rtol=1e-6)


def test_adam_undoes_a_constant_factor_of_gradients_and_not_of_updates():
    adam = {"name": "adamw", "epsilon": 1e-12, "beta1": 0.0}
    np.testing.assert_allclose(step_of(attention_informed="gradient", **adam), [[-1, 1]], rtol=1e-5)
    factor = 0.5 + 0.5 * (1 + np.tanh(0.2))
    np.testing.assert_allclose(step_of(attention_informed="update", **adam), [[-factor, factor]], rtol=1e-5)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_runs_of_the_released_optimizer(name):
    """Tighter than `verify`: rounding is 5e-7, and even with the defaults the factor moves parameters by 2.6e-6."""
    recorded = read(RECORDED[name])
    with jax.default_matmul_precision("float32"):
        found = optimizer_cases.replay(recorded)
    steps = recorded.settings["steps"]
    assert len(found) == 3 + 2 * steps * len(recorded.group("param"))
    moved = 0.0
    for key, value in found.items():
        if optimizer_cases.WITHOUT_GRADIENT not in key:
            np.testing.assert_allclose(value, recorded.arrays[key], atol=1e-6, rtol=3e-6, err_msg=key)
        if key.startswith(f"step{steps}/param/"):
            plain = recorded.arrays[key.replace(f"step{steps}", "plain_adamw_final")]
            moved = max(moved, np.max(np.abs(np.asarray(value) - plain)))
    assert moved > 2e-6


@functools.cache
def start(**options):
    """A state and the compiled step of the made-up model."""
    cfg = Config(steps=100)
    cfg.data.augment = False
    cfg.optim = OptimConfig(**{"name": "sgd", "momentum": 0.0, "schedule": "constant", "learning_rate": 0.5} | options)
    optimizer = build(cfg.optim, cfg.steps)
    params = nn.meta.unbox(jax.jit(Model().init)(jax.random.key(7), jnp.zeros((1, 5)))["params"])
    state = jax.jit(lambda params: TrainState.create(params, optimizer.tx, cfg.optim.ema_decay is not None))(params)
    return state, jax.jit(make_train_step(Model(), optimizer, cfg, Data().prepare))


INFORMED = {"attention_informed": "gradient", "energy_scale": 2.0, "clip_norm": 0.3, "ema_decay": 0.75}


def energy_of(params, examples):
    """What the made-up model sows: the mean magnitude of its heads."""
    query = params["attention"]["query"]
    x = np.asarray(Data().prepare(examples["inputs"], None, None))
    return np.mean(np.abs(np.einsum("bc,chd->bhd", x, query["kernel"]) + np.asarray(query["bias"])[None]))


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_step_of_the_trainer_with_clipping_micro_batches_and_an_average(micro_batches):
    examples = batch(0)
    state, plain = start()
    stepped = plain(state, examples)[0].params
    slope = jax.tree.map(lambda a, b: (np.asarray(a) - b) / 0.5, state.params, jax.device_get(stepped))
    state, step = start(accumulation_steps=micro_batches, **INFORMED)
    (new, metrics), params = step(state, examples), jax.device_get(state.params)
    energy = energy_of(params, examples)
    assert float(metrics["energy"][0]) == pytest.approx(energy, rel=1e-5)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(slope)))
    assert norm > 0.3
    scale = 0.5 * (1 + np.tanh(2.0 * energy)) * 0.3 / norm
    expected = jax.tree.map(lambda p, g: p - scale * g, params, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), new.params, expected)
    average = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, params, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), new.ema, average)


def test_a_voided_step_has_no_energy_and_changes_nothing():
    state, step = start(accumulation_steps=1, **INFORMED)
    new, metrics = step(state, batch(0) | {"weight": np.full(16, np.inf, np.float32)})
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
    assert [float(x) for x in metrics["energy"]] == [0.0, 0.0]


def test_devices_and_micro_batches_change_no_number(tmp_path):
    """All three forms in one chain, on a vision transformer: parameters, moments and averages after three steps."""
    command = [sys.executable, "-m", "tests.optim.informed_devices", str(tmp_path / "found.npz")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    arrays = np.load(tmp_path / "found.npz")
    names = [name.removeprefix("jit 1/") for name in arrays.files if name.startswith("jit 1/")]
    assert {name.split("/")[0] for name in names} == {"step", "params", "opt_state", "ema", "energy"}
    for case in ("jit 2x2 in 2", "pmap 2 in 2"):
        for name in names:
            np.testing.assert_allclose(
                arrays[f"{case}/{name}"], arrays[f"jit 1/{name}"], atol=1e-5, rtol=1e-5, err_msg=f"{case} {name}"
            )


def smoke(form, **model):
    """The smoke version of the language model, one layer whose mechanism is softmax attention."""
    config = runs.get_config("python_docs_lm", "smoke")
    config.optim = OptimConfig(name="adamw", attention_informed=form, energy_scale=1.0, clip_norm=1.0, ema_decay=0.5)
    config.steps, config.checkpoint.every, config.logging.every = 6, 3, 2
    for name, value in model.items():
        setattr(config.model, name, value)
    return config


def test_a_run_that_was_interrupted_is_the_run_that_was_not(tmp_path, monkeypatch):
    """From a config, on a mechanism that knows nothing of natural attention; bit for bit."""
    make = data.train_batch

    def train_batch(dataset, seed, n, size, rows=slice(None)):
        if n == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return make(dataset, seed, n, size, rows)

    config = smoke("paper")
    config.data.prefetch = 0
    train(config, tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(data, "train_batch", train_batch)
        with pytest.raises(SystemExit):
            train(config, tmp_path / "stopped")
    train(config, tmp_path / "stopped")
    assert "continuing at step 4" in (tmp_path / "stopped" / "log.txt").read_text()
    metrics = [tmp_path / name / "metrics.csv" for name in ("straight", "stopped")]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    energies = [energy for energy in read_csv(metrics[0])["train/energy"] if energy is not None]
    assert len(set(energies)) == 3
    assert all(0 < energy < 10 for energy in energies)


@pytest.mark.parametrize(
    ("form", "model", "message"),
    [
        ("gradient", "conv1d", "needs energies, and no layer of the model reports any"),
        ("paper", "efficient", "form='paper' .* needs a value projection"),
    ],
)
def test_a_model_that_reports_too_little_is_refused_before_anything_is_written(form, model, message, tmp_path):
    config = smoke(form, positions="learned")
    config.model.attention.name = model
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_layer_with_an_energy_is_enough():
    config = smoke("update", positions="learned", depth=2, pattern="conv1d, natural")
    assert setup.build(config).optimizer.reads_energies
