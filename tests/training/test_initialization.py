"""Initial parameters as other codes draw them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.config import AttentionConfig, ModelConfig
from jattn.errors import UserError
from jattn.models import build
from jattn.optim.parameters import path_name
from jattn.task import Task
from jattn.training import initialization

WIDTH, DEPTH, HEADS, MLP = 24, 3, 4, 40
TASK = Task("text", num_classes=7, vocab_size=211, length=13)


@pytest.fixture(scope="module")
def own():
    """Parameters as the modules draw them, boxed."""
    config = ModelConfig(
        name="text_classifier", width=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_dim=MLP, head_hidden_dim=30,
        attention=AttentionConfig("softmax"), layers="1:super(shared=False), 2:neural(projection_dim=4)",
    )  # fmt: skip
    model = build(config, TASK)
    return jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 13), jnp.int32))["params"]


def drawn(own, name, seed=1):
    params = initialization.redrawn(own, name, jax.random.key(seed), DEPTH)
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(nn.unbox(params))}


def assert_uniform(x, bound):
    """Within the bound, near it, and with its standard deviation."""
    assert abs(x).max() <= bound
    assert abs(x).max() > 0.9 * bound or x.size < 100
    assert abs(x.std() / (bound / 3**0.5) - 1) < 3 / x.size**0.5


def assert_normal(x, deviation):
    assert abs(x.std() / deviation - 1) < 4 / x.size**0.5
    assert abs(x).max() > 2 * deviation


def test_pytorch_is_uniform_by_inputs_and_its_embeddings_normal(own):
    params = drawn(own, "pytorch")
    inputs = {"block_0/attention/query": WIDTH, "block_0/attention/out": WIDTH, "block_0/mlp/output": MLP}
    for module, count in (inputs | {"head/hidden": WIDTH, "head/output": 30}).items():
        assert_uniform(params[f"{module}/kernel"], count**-0.5)
        assert_uniform(params[f"{module}/bias"], count**-0.5)
    assert_normal(params["token_embedding/embedding"], 1.0)
    assert_normal(params["position_embedding/embedding"], 1.0)


def test_gpt2_is_normal_and_smaller_where_layers_add_up(own):
    params = drawn(own, "gpt2")
    for name in ("block_0/attention/value/kernel", "block_0/mlp/hidden/kernel", "token_embedding/embedding"):
        assert_normal(params[name], 0.02)
    for name in ("block_0/attention/out/kernel", "block_2/mlp/output/kernel"):
        assert_normal(params[name], 0.02 / 6**0.5)
    assert not params["block_0/mlp/hidden/bias"].any()


def test_keras_and_what_projects_to_heads_elsewhere_is_xavier(own):
    params = drawn(own, "keras")
    assert_uniform(params["block_0/mlp/hidden/kernel"], (6 / (WIDTH + MLP)) ** 0.5)
    assert_uniform(params["token_embedding/embedding"], 0.05)
    for name in ("keras", "pay_better_attention"):
        params = drawn(own, name)
        # Each head is a layer of its own, of 6 outputs.
        assert_uniform(params["block_0/attention/key/kernel"], (6 / (WIDTH + WIDTH // HEADS)) ** 0.5)
        assert not params["block_0/attention/key/bias"].any()
    assert_uniform(params["block_0/attention/out/bias"], WIDTH**-0.5)
    assert_uniform(params["block_0/mlp/hidden/kernel"], WIDTH**-0.5)


def test_a_gpt2_whose_blocks_were_replaced(own):
    params = drawn(own, "natural_attention")
    assert_uniform(params["block_1/mlp/output/bias"], MLP**-0.5)
    assert_normal(params["token_embedding/embedding"], 0.02)


@pytest.mark.parametrize("name", sorted(initialization.SCHEMES))
def test_what_is_no_dense_layer_stays(own, name):
    params = drawn(own, name)
    for path, leaf in jax.tree.leaves_with_path(nn.unbox(own)):
        path = path_name(path)
        if any(part in path for part in ("norm", "score", "mixing")) or name == initialization.OWN:
            np.testing.assert_array_equal(params[path], leaf)
        elif path.endswith("kernel"):
            assert (params[path] != np.asarray(leaf)).any()


def test_a_parameter_depends_on_the_key_and_its_path_alone(own):
    first = drawn(own, "gpt2")
    less = nn.unbox(own)
    less = {name: less[name] for name in ("block_0", "head")}
    again = drawn(less, "gpt2")
    for name, leaf in again.items():
        np.testing.assert_array_equal(leaf, first[name])
    assert (drawn(less, "gpt2", seed=2)["head/hidden/kernel"] != again["head/hidden/kernel"]).any()
    assert (first["block_0/mlp/hidden/kernel"] != first["block_1/mlp/hidden/kernel"]).any()


def test_logical_axes_are_kept(own):
    params = initialization.redrawn(own, "pytorch", jax.random.key(0), DEPTH)
    assert jax.tree.structure(params) == jax.tree.structure(own)
    assert params["block_0"]["mlp"]["hidden"]["kernel"].names == ("embed", "mlp")


def test_an_unknown_scheme_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown model\.initialization 'torch': did you mean 'pytorch'"):
        initialization.check("torch")
