import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jattn.config import Config
from jattn.errors import UserError
from jattn.optim.build import build as build_optimizer
from jattn.training import parallel, placement
from tests import runs
from tests.training.made_up import Data, Model, batch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(arrays of a case, facts of a case) of the cases in eight_devices.py."""

    def make(folder):
        command = [sys.executable, "-m", "tests.training.eight_devices", str(folder)]
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr

    folder = runs.once(tmp_path_factory, "eight_devices", make)
    arrays, facts = np.load(folder / "arrays.npz"), json.loads((folder / "facts.json").read_text())

    def of(case):
        names = [name for name in arrays.files if name.startswith(f"{case}/")]
        return {name.removeprefix(f"{case}/"): arrays[name] for name in names}, facts[case]

    return of


@pytest.mark.parametrize(
    ("case", "reference"),
    [
        ("vit jit 2", "vit jit 1"),
        ("vit jit 8", "vit jit 1"),
        ("vit jit 4x2", "vit jit 1"),
        ("vit pmap 2", "vit pmap 1"),
        ("vit pmap 8", "vit pmap 1"),
        ("made up jit 2 in 4", "made up jit 1"),
        ("made up jit 2x2 in 2", "made up jit 1"),
        ("mixed pmap 4 in 2", "mixed jit 1 in 2"),
    ],
)
def test_devices_and_micro_batches_change_no_number(results, case, reference):
    """Parameters, moments and averages after five steps; jit with dropout, all with augmentation."""
    (arrays, facts), (expected, expected_facts) = results(case), results(reference)
    assert arrays.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(arrays[name], x, atol=1e-5, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(facts["losses"], expected_facts["losses"], atol=1e-5)
    for name, pair in expected_facts["evaluated"].items():
        np.testing.assert_allclose(facts["evaluated"][name], pair, rtol=1e-5, err_msg=name)


def test_attention_is_looked_at_under_pmap(results):
    found, expected = (results(f"vit pmap {number}")[1]["attention"] for number in (8, 1))
    assert "attention/block_0/entropy" in expected
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_runs_train_and_draw_dropout(results):
    """Else the comparison above would compare nothing."""
    _, facts = results("vit jit 1")
    assert len(set(facts["losses"])) == 5
    with_dropout, without = results("vit jit 1")[1], results("vit pmap 1")[1]
    assert abs(with_dropout["losses"][0] - without["losses"][0]) > 1e-4


@pytest.mark.parametrize("case", ["vit jit 1", "vit jit 4x2", "vit pmap 1", "vit pmap 8"])
def test_the_old_state_is_donated_and_the_new_one_lies_where_it_should(results, case):
    _, facts = results(case)
    assert facts["donated"]
    assert facts["as_announced"]


@pytest.mark.parametrize("case", ["made up jit 1", "made up jit 2x2 in 2", "mixed pmap 4 in 2"])
def test_nothing_is_traced_again(results, case):
    assert results(case)[1]["retraced"] == 0


def test_micro_batches_move_no_example_between_devices(results):
    _, facts = results("made up jit 2 in 4")
    assert facts["moves"] == 0
    assert facts["sums"] > 0


def test_a_model_axis_divides_heads_hidden_features_and_their_moments(results):
    made = results("made up jit 2x2 in 2")[1]["shards"]  # by init_state itself
    assert made["params/attention/query/kernel"] == [5, 1, 3]
    shards = results("vit jit 4x2")[1]["shards"]
    for state in "params", "ema", "opt_state/precondition/mu", "opt_state/precondition/nu":
        block = f"{state}/block_0"
        assert shards[f"{block}/attention/query/kernel"] == [16, 1, 8]
        assert shards[f"{block}/attention/query/bias"] == [1, 8]
        assert shards[f"{block}/attention/out/kernel"] == [1, 8, 16]
        assert shards[f"{block}/mlp/hidden/kernel"] == [16, 12]
        assert shards[f"{block}/mlp/output/kernel"] == [12, 16]
        assert shards[f"{block}/norm_mlp/scale"] == [16]


def config(**options):
    cfg = Config(steps=10)
    cfg.data.batch_size, cfg.model.num_heads = 16, 2
    for name, value in options.items():
        group, field = name.split("__")
        setattr(getattr(cfg, group), field, value)
    return cfg


def build(cfg, model=None):
    return parallel.build(cfg, model or Model(), build_optimizer(cfg.optim, cfg.steps), Data())


class Platforms(Model):
    """A model whose program says which platform it was lowered for."""

    def __call__(self, x, *, deterministic=True):
        marks = {"cuda": jnp.sinh, "tpu": jnp.cosh, "cpu": jnp.atan}
        return super().__call__(jax.lax.platform_dependent(x, **marks), deterministic=deterministic)


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_the_step_can_be_lowered_for_devices_that_are_not_there(strategy):
    steps = build(config(parallel__strategy=strategy), Platforms())
    programs = {name: steps.lower_train_step(name).as_text() for name in ("cpu", "cuda", "tpu")}
    found = {
        name: {mark for mark in ("sinh", "cosh", "atan") if f"chlo.{mark}" in text or f"{mark}." in text}
        for name, text in programs.items()
    }
    assert found == {"cuda": {"sinh"}, "tpu": {"cosh"}, "cpu": {"atan"}}


def test_the_seed_decides_the_initial_state_and_the_strategy_does_not():
    def initial(strategy, seed):
        cfg = config(parallel__strategy=strategy, optim__ema_decay=0.9)
        cfg.seed = seed
        return build(cfg).init_state()

    state = initial("jit", 0)
    jax.tree.map(np.testing.assert_array_equal, state, initial("pmap", 0))
    kernels = [np.asarray(s.params["head"]["kernel"]) for s in (state, initial("jit", 1))]
    assert np.all(kernels[0] != kernels[1])


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_one_program_serves_every_seed(strategy):
    """So runs of other seeds find it in the cache of compiled programs."""

    def program(seed):
        cfg = config(parallel__strategy=strategy)
        cfg.seed = seed
        return build(cfg, Model(dropout_rate=0.5)).lower_train_step("cpu").as_text()

    assert program(0) == program(1)


@pytest.mark.parametrize(
    ("num_devices", "options", "expected"),
    [
        (8, {}, (8, 1)),
        (8, {"parallel__model": 2}, (4, 2)),
        (8, {"parallel__model": 2, "parallel__data": 1}, (1, 2)),
        (3, {"parallel__data": 2}, (2, 1)),
        (8, {"optim__accumulation_steps": 2}, (8, 1)),
    ],
)
def test_layout(num_devices, options, expected):
    assert placement.layout(config(**options), num_devices) == expected


@pytest.mark.parametrize(
    ("num_devices", "options", "message"),
    [
        (3, {}, "data.batch_size=16 does not divide over 3 devices x 1 micro-batches .* multiple of 3"),
        (8, {"optim__accumulation_steps": 4}, "over 8 devices x 4 micro-batches .* multiple of 32"),
        (1, {"data__batch_size": 0}, "data.batch_size=0"),
        (8, {"data__eval_batch_size": 12}, "data.eval_batch_size=12 does not divide over 8 devices"),
        (8, {"parallel__data": 16}, "parallel.data=16 times parallel.model=1 needs 16 devices and there are 8"),
        (1, {"parallel__model": 2}, "parallel.model=2 does not divide the 1 devices"),
        (8, {"parallel__data": 0}, "parallel.data=0 must be at least 1"),
        (8, {"parallel__model": 4}, "model.num_heads=2 does not divide over parallel.model=4"),
        (8, {"parallel__strategy": "pmap", "parallel__model": 2}, "pmap cannot divide a model"),
    ],
)
def test_what_a_user_can_get_wrong(num_devices, options, message):
    with pytest.raises(UserError, match=message):
        placement.layout(config(**options), num_devices)


def test_unknown_strategy():
    with pytest.raises(UserError, match="unknown parallel strategy 'pmpa': did you mean 'pmap'"):
        build(config(parallel__strategy="pmpa"))


@pytest.mark.parametrize(
    ("names", "shape", "expected"),
    [
        (("embed", "heads", "head_dim"), (6, 4, 3), PartitionSpec(None, "model", None)),
        (("vocab", "embed"), (257, 6), PartitionSpec(None, None)),  # 2 does not divide 257
        (("heads", "mlp"), (4, 8), PartitionSpec("model", None)),  # one array, one axis over the devices
        ((None, "mlp"), (3, 8), PartitionSpec(None, "model")),
        ((), (3, 8), PartitionSpec()),
    ],
)
def test_partition_spec(names, shape, expected):
    mesh = jax.sharding.AbstractMesh((2, 2), ("data", "model"))
    assert placement.partition_spec(names, shape, mesh) == expected


def test_unknown_logical_axis():
    mesh = jax.sharding.AbstractMesh((2, 2), ("data", "model"))
    with pytest.raises(UserError, match="unknown logical axis 'head': did you mean 'heads'"):
        placement.partition_spec(("head",), (4,), mesh)


def test_batches_are_placed_as_they_are():
    steps, data = build(config()), batch(0)
    placed = steps.place(data)
    jax.tree.map(np.testing.assert_array_equal, placed, data)
    assert {x.sharding.spec for x in placed.values()} == {PartitionSpec("data")}
