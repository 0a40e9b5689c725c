import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.errors import UserError
from jattn.models.layers import (
    Mlp,
    PatchEmbedding,
    TokenEmbedding,
    activation,
    layer_norm,
    num_patches,
    output_layer,
)
from tests import calls

ORACLES = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


def random_params(module, x):
    """Every leaf random, so that biases, scales and zeros count."""
    return jax.tree.map(np.asarray, calls.random_variables(module, x, spread=1)["params"])


@pytest.mark.parametrize("name", ORACLES)
def test_an_activation_is_its_formula(name):
    x = np.linspace(-4, 4, 17)
    expected = [ORACLES[name](value) for value in x]
    np.testing.assert_allclose(jax.jit(activation(name))(np.float32(x)), expected, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exact_gelu_and_its_derivatives_are_jax_s(dtype):
    x = jnp.asarray(np.concatenate([np.linspace(-12, 12, 481), [-1e4, 1e4]]), dtype)
    exact = functools.partial(jax.nn.gelu, approximate=False)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 2e-2, "atol": 2e-2}
    for derivative in (jax.vmap, lambda f: jax.vmap(jax.grad(f)), lambda f: jax.vmap(jax.grad(jax.grad(f)))):
        found, expected = (jax.jit(derivative(f))(x) for f in (activation("gelu"), exact))
        np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(expected, np.float32), **tolerance)
        tolerance["atol"] *= 4
    value, tangent = jax.eval_shape(lambda x: jax.jvp(activation("gelu"), (x,), (x,)), x)
    assert value.dtype == tangent.dtype == x.dtype


def test_exact_and_approximate_gelu_differ():
    x = jnp.asarray([2.7])
    assert abs(float(activation("gelu")(x)[0] - activation("gelu_tanh")(x)[0])) > 3e-4


def test_an_unknown_activation_names_the_nearest():
    with pytest.raises(UserError, match="unknown activation 'gellu': did you mean 'gelu'"):
        activation("gellu")


def test_the_mlp_is_two_affine_maps_around_the_activation():
    x = np.random.default_rng(1).standard_normal((2, 3, 5), np.float32)
    mlp = Mlp(hidden_dim=7, activation="relu")
    p = random_params(mlp, x)
    hidden = np.maximum(x @ p["hidden"]["kernel"] + np.asarray(p["hidden"]["bias"])[None, None], 0)
    expected = hidden @ p["output"]["kernel"] + np.asarray(p["output"]["bias"])[None, None]
    np.testing.assert_allclose(calls.apply(mlp, {"params": p}, x), expected, rtol=1e-5, atol=1e-5)


def test_an_mlp_without_biases_has_none():
    params = calls.shapes(Mlp(hidden_dim=7, use_bias=False), jnp.ones((1, 1, 5)))["params"]
    assert {name: set(leaves) for name, leaves in params.items()} == {"hidden": {"kernel"}, "output": {"kernel"}}


def normalized(x, epsilon):
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def test_layer_norm_has_scale_bias_and_epsilon():
    x = jnp.asarray(0.1 * np.random.default_rng(2).normal(size=(3, 5)), jnp.float32)
    norm = layer_norm(epsilon=0.5, dtype=jnp.float32)
    p = random_params(norm, x)
    expected = normalized(x, 0.5) * np.asarray(p["scale"])[None] + np.asarray(p["bias"])[None]
    np.testing.assert_allclose(calls.apply(norm, {"params": p}, x), expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_statistics_are_float32_and_do_not_cancel():
    noise = np.random.default_rng(3).normal(size=(4, 64))
    for dtype, mean, tolerance in ((jnp.float32, 3000.0, 2e-3), (jnp.bfloat16, 40.0, 2e-2)):
        x = jnp.asarray(mean + noise, dtype)
        norm = layer_norm(epsilon=1e-6, dtype=dtype)
        y = calls.apply(norm, calls.init(norm, x), x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y.astype(np.float32), normalized(x, 1e-6), atol=tolerance)


def test_token_embeddings_are_rows_and_output_weights():
    embedding = TokenEmbedding(vocab_size=5, width=3)
    tokens = np.asarray([[4, 0, 2], [1, 1, 3]])
    params = random_params(embedding, tokens)
    table = params["embedding"]
    np.testing.assert_array_equal(calls.apply(embedding, {"params": params}, tokens), table[tokens])
    x = np.random.default_rng(4).standard_normal((2, 7, 3), np.float32)
    logits = calls.apply(embedding, {"params": params}, x, method="attend")
    np.testing.assert_allclose(logits, x @ table.T, rtol=1e-5, atol=1e-6)


def test_a_token_outside_the_vocabulary_is_nan():
    embedding = TokenEmbedding(vocab_size=5, width=3)
    variables = calls.random_variables(embedding, np.zeros((1, 1), np.int32))
    rows = calls.apply(embedding, variables, jnp.asarray([[4, 5]]))
    assert np.isfinite(rows[0, 0]).all()
    assert np.isnan(rows[0, 1]).all()


def test_patches_are_read_row_by_row_and_projected():
    batch, patch, rows, columns, channels, width = 2, 3, 2, 5, 1, 7
    x = np.random.default_rng(5).standard_normal((batch, rows * patch, columns * patch, channels), np.float32)
    embedding = PatchEmbedding(patch, width)
    p = random_params(embedding, x)["projection"]
    patches = x.reshape(batch, rows, patch, columns, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(batch, rows * columns, patch * patch * channels)
    expected = patches @ np.asarray(p["kernel"]).reshape(-1, width) + np.asarray(p["bias"])[None, None]
    found = calls.apply(embedding, {"params": {"projection": p}}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_patch_that_does_not_divide_the_picture_is_refused():
    assert num_patches((6, 15), 3) == 10
    with pytest.raises(UserError, match="patch_size 4 does not divide pictures of 8 x 6 pixels"):
        calls.shapes(PatchEmbedding(4, 8), np.ones((1, 8, 6, 1), np.float32))
    with pytest.raises(UserError, match="patch_size 4 does not divide pictures of 6 x 8 pixels"):
        num_patches((6, 8), 4)
    with pytest.raises(UserError, match="patch_size 0"):
        num_patches((8, 8), 0)


def test_the_output_layer_accumulates_in_float32():
    # 1 + 2^-12 is no bfloat16: it survives only if the sum of products leaves the multiplication in float32.
    layer = output_layer(1, use_bias=True, dtype=jnp.bfloat16)
    params = {"kernel": jnp.asarray([[1.0], [2.0**-12]]), "bias": jnp.zeros(1)}
    logits = layer.apply({"params": params}, jnp.ones((1, 2), jnp.bfloat16))
    assert logits.dtype == jnp.float32
    assert float(logits[0, 0]) == 1 + 2.0**-12


def test_parameters_carry_logical_names():
    def names(module, x):
        specs = nn.get_partition_spec(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
        return {
            jax.tree_util.keystr(k, simple=True, separator="/"): tuple(v)
            for k, v in jax.tree.leaves_with_path(
                specs, is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec)
            )
        }

    assert names(Mlp(7), jnp.ones((1, 1, 5))) == {
        "hidden/kernel": ("embed", "mlp"),
        "hidden/bias": ("mlp",),
        "output/kernel": ("mlp", "embed"),
        "output/bias": ("embed",),
    }
    assert names(TokenEmbedding(5, 3), jnp.zeros((1, 1), jnp.int32)) == {"embedding": ("vocab", "embed")}
    assert names(output_layer(3, use_bias=True, dtype=jnp.float32), jnp.ones((1, 2))) == {
        "kernel": ("embed", "vocab"),
        "bias": ("vocab",),
    }
    assert names(PatchEmbedding(2, 3), jnp.ones((1, 2, 2, 1))) == {
        "projection/kernel": (None, None, None, "embed"),
        "projection/bias": ("embed",),
    }
    norm = layer_norm(epsilon=1e-6, dtype=jnp.float32)
    assert names(norm, jnp.ones((1, 3))) == {"scale": ("embed",), "bias": ("embed",)}
