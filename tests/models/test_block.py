import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jattn.attention import SoftmaxAttention
from jattn.attention.mechanism import mechanism
from jattn.models.block import Block, rematerialized

SOFTMAX = mechanism("softmax", {})


def block(**options):
    return Block(**({"mechanism": SOFTMAX, "num_heads": 2, "mlp_dim": 7, "norm_epsilon": 1e-3} | options))


def made(module, x, seed=0):
    rng = np.random.default_rng(seed)
    params = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.5, jnp.float32), params)


def norm(x, p):
    x = np.asarray(x)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    return x * np.asarray(p["scale"])[None, None] + np.asarray(p["bias"])[None, None]


def mlp(x, p):
    h = x @ p["hidden"]["kernel"] + np.asarray(p["hidden"]["bias"])[None, None]
    h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    return h @ p["output"]["kernel"] + np.asarray(p["output"]["bias"])[None, None]


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_block_is_two_normed_residual_branches(norm_position, causal):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 6)), jnp.float32)
    mask = jnp.asarray([[True] * 5, [True, True, True, False, False], [True] * 4 + [False]])
    module = block(norm_position=norm_position, causal=causal)
    p = made(module, x)

    def attention(x):
        module = SoftmaxAttention(num_heads=2, causal=causal)
        return np.asarray(jax.jit(module.apply)({"params": p["attention"]}, jnp.asarray(x), mask))

    if norm_position == "pre":
        y = x + attention(norm(x, p["norm_attention"]))
        y = y + mlp(norm(y, p["norm_mlp"]), p["mlp"])
    else:
        y = norm(x + attention(x), p["norm_attention"])
        y = norm(y + mlp(y, p["mlp"]), p["norm_mlp"])
    np.testing.assert_allclose(jax.jit(module.apply)({"params": p}, x, mask), y, rtol=1e-4, atol=1e-4)


def test_dropout_acts_on_the_output_of_each_branch():
    x = jnp.ones((2, 31, 8))
    module = block(dropout_rate=0.75)
    p = jax.tree.map(jnp.zeros_like, made(module, x))
    apply = jax.jit(functools.partial(module.apply, mask=None), static_argnames="deterministic")
    for attention, transform, values in ((1.0, 0.0, {0, 4}), (0.0, 1.0, {0, 4}), (1.0, 3.0, {0, 4, 12, 16})):
        p["attention"]["out"]["bias"] = jnp.full(8, attention)
        p["mlp"]["output"]["bias"] = jnp.full(8, transform)
        y = apply({"params": p}, x, deterministic=False, rngs={"dropout": jax.random.key(3)})
        assert set(np.unique(np.asarray(y - x))) == values
        kept = apply({"params": p}, x, deterministic=True)
        np.testing.assert_array_equal(kept - x, jnp.full_like(x, attention + transform))


def test_dropout_acts_on_the_hidden_features_of_the_mlp():
    x = jnp.ones((2, 31, 8))
    module = block(mlp_dim=1, mlp_dropout_rate=0.75)
    p = jax.tree.map(jnp.zeros_like, made(module, x))
    p["mlp"]["hidden"]["bias"], p["mlp"]["output"]["kernel"] = jnp.full(1, 50.0), jnp.ones((1, 8))
    y = jax.jit(lambda key: module.apply({"params": p}, x, None, False, rngs={"dropout": key}))(jax.random.key(3))
    # The one hidden feature of a token, gelu(50) = 50, is dropped or four times as large.
    assert set(np.unique(np.asarray(y - x))) == {0, 200}
    assert (np.asarray(y - x) == np.asarray(y - x)[:, :, :1]).all()
    np.testing.assert_array_equal(module.apply({"params": p}, x) - x, jnp.full_like(x, 50))


def test_dropout_of_attention_weights_reaches_the_mechanism():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 6)), jnp.float32)
    module = block(attention_dropout_rate=0.5)
    p = made(module, x)
    apply = jax.jit(lambda key: module.apply({"params": p}, x, None, False, rngs={"dropout": key}))
    first, second = (apply(jax.random.key(seed)) for seed in (0, 1))
    assert float(jnp.abs(first - second).max()) > 1e-3


def test_the_mechanism_is_the_one_of_the_options():
    x = jnp.ones((1, 3, 8))
    module = block(num_heads=4, mechanism=mechanism("softmax", {"num_key_heads": 1}), use_bias=False)
    p = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x))["params"]
    assert set(p) == {"attention", "mlp", "norm_attention", "norm_mlp"}
    assert p["attention"]["key"]["kernel"].shape == (8, 1, 2)
    assert set(p["attention"]["query"]) == {"kernel"}
    assert set(p["mlp"]["hidden"]) == {"kernel"}


@pytest.fixture(scope="module")
def gradients():
    """Of a block with dropout, by kind of remat: value and gradient, and how many exponentials (softmax) there are."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 6)), jnp.float32)
    options = {"dropout_rate": 0.5, "implementation": "blockwise"}
    p = made(block(**options), x)
    results = {}
    for remat in ("none", "block", "attention"):
        module = rematerialized(remat)(SOFTMAX, 2, 7, norm_epsilon=1e-3, **options)

        def loss(p, module=module):
            return jnp.sum(module.apply({"params": p}, x, None, False, rngs={"dropout": jax.random.key(2)}) ** 2)

        lowered = jax.jit(jax.value_and_grad(loss)).lower(p)
        results[remat] = (*lowered.compile()(p), lowered.as_text().count("stablehlo.exponential"))
    return results


@pytest.mark.parametrize("remat", ["block", "attention"])
def test_remat_changes_no_value_and_no_gradient(gradients, remat):
    value, gradient, _ = gradients["none"]
    assert float(optax.tree.norm(gradient)) > 1
    np.testing.assert_allclose(gradients[remat][0], value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradients[remat][1], gradient)


def test_remat_recomputes_attention_unless_its_output_is_kept(gradients):
    exponentials = {remat: gradients[remat][2] for remat in gradients}
    assert exponentials["attention"] == exponentials["none"]
    assert exponentials["block"] > exponentials["none"]
