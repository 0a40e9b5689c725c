import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import SoftmaxAttention
from jattn.attention.mechanism import mechanism
from jattn.models.block import Block, rematerialized
from tests import calls

SOFTMAX = mechanism("softmax", {})


def block(**options):
    return Block(**({"mechanism": SOFTMAX, "num_heads": 2, "mlp_dim": 7, "norm_epsilon": 1e-3} | options))


def made(module, x):
    return calls.random_variables(module, x, spread=0.5)["params"]


def norm(x, p):
    x = np.asarray(x)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    return x * np.asarray(p["scale"])[None, None] + np.asarray(p["bias"])[None, None]


def mlp(x, p):
    h = x @ p["hidden"]["kernel"] + np.asarray(p["hidden"]["bias"])[None, None]
    h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    return h @ p["output"]["kernel"] + np.asarray(p["output"]["bias"])[None, None]


@pytest.mark.parametrize(("norm_position", "causal"), [("pre", True), ("post", False)])
def test_a_block_is_two_normed_residual_branches(norm_position, causal):
    x = np.random.default_rng(1).standard_normal((3, 5, 6), np.float32)
    mask = np.asarray([[True] * 5, [True, True, True, False, False], [True] * 4 + [False]])
    module = block(norm_position=norm_position, causal=causal)
    p = made(module, x)

    def attention(x):
        module = SoftmaxAttention(num_heads=2, causal=causal, implementation="dense")
        return calls.apply(module, {"params": p["attention"]}, x, mask)

    if norm_position == "pre":
        y = x + attention(norm(x, p["norm_attention"]))
        y = y + mlp(norm(y, p["norm_mlp"]), p["mlp"])
    else:
        y = norm(x + attention(x), p["norm_attention"])
        y = norm(y + mlp(y, p["mlp"]), p["norm_mlp"])
    np.testing.assert_allclose(calls.apply(module, {"params": p}, x, mask), y, rtol=1e-4, atol=1e-4)


def test_dropout_acts_on_the_output_of_each_branch():
    x = np.ones((2, 31, 8), np.float32)
    module = block(dropout_rate=0.75, implementation="dense")
    p = jax.tree.map(np.zeros_like, made(module, x))
    apply = functools.partial(calls.apply, module)
    for attention, transform, values in ((1.0, 0.0, {0, 4}), (0.0, 1.0, {0, 4}), (1.0, 3.0, {0, 4, 12, 16})):
        p["attention"]["out"]["bias"] = np.full(8, attention, np.float32)
        p["mlp"]["output"]["bias"] = np.full(8, transform, np.float32)
        y = apply({"params": p}, x, deterministic=False, rngs={"dropout": jax.random.key(3)})
        assert set(np.unique(y - x)) == values
        kept = apply({"params": p}, x, deterministic=True)
        np.testing.assert_array_equal(kept - x, np.full_like(x, attention + transform))


def test_dropout_acts_on_the_hidden_features_of_the_mlp():
    x = np.ones((2, 31, 8), np.float32)
    module = block(mlp_dim=1, mlp_dropout_rate=0.75, implementation="dense")
    p = jax.tree.map(np.zeros_like, made(module, x))
    p["mlp"]["hidden"]["bias"], p["mlp"]["output"]["kernel"] = np.float32([50]), np.ones((1, 8), np.float32)
    y = calls.apply(module, {"params": p}, x, deterministic=False, rngs={"dropout": jax.random.key(3)})
    # The one hidden feature of a token, gelu(50) = 50, is dropped or four times as large.
    assert set(np.unique(y - x)) == {0, 200}
    assert (y - x == (y - x)[:, :, :1]).all()
    np.testing.assert_array_equal(calls.apply(module, {"params": p}, x) - x, np.full_like(x, 50))


def test_dropout_of_attention_weights_reaches_the_mechanism():
    x = np.random.default_rng(1).standard_normal((2, 5, 6), np.float32)
    module = block(attention_dropout_rate=0.5, implementation="dense")
    apply = functools.partial(calls.apply, module, {"params": made(module, x)}, x, deterministic=False)
    first, second = (apply(rngs={"dropout": jax.random.key(seed)}) for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-3


def test_the_mechanism_is_the_one_of_the_options():
    x = jnp.ones((1, 3, 8))
    module = block(num_heads=4, mechanism=mechanism("softmax", {"num_key_heads": 1}), use_bias=False)
    p = calls.shapes(module, x)["params"]
    assert set(p) == {"attention", "mlp", "norm_attention", "norm_mlp"}
    assert p["attention"]["key"]["kernel"].shape == (8, 1, 2)
    assert set(p["attention"]["query"]) == {"kernel"}
    assert set(p["mlp"]["hidden"]) == {"kernel"}


def test_remat_changes_no_gradient_and_recomputes_attention_unless_its_output_is_kept():
    """Of a block with dropout: values and gradients, and how many exponentials (softmax) there are."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 6)), jnp.float32)
    options = {"dropout_rate": 0.5, "implementation": "blockwise"}
    p = made(block(**options), x)
    found, exponentials = {}, {}
    for remat in ("none", "block", "attention"):
        module = rematerialized(remat)(SOFTMAX, 2, 7, norm_epsilon=1e-3, **options)

        def loss(p, module=module):
            return jnp.sum(module.apply({"params": p}, x, None, False, rngs={"dropout": jax.random.key(2)}) ** 2)

        lowered = jax.jit(jax.value_and_grad(loss)).lower(p)
        found[remat], exponentials[remat] = lowered.compile()(p), lowered.as_text().count("stablehlo.exponential")
    value, gradient = found["none"]
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1
    for remat in ("block", "attention"):
        np.testing.assert_allclose(found[remat][0], value, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found[remat][1], gradient)
    assert exponentials["attention"] == exponentials["none"]
    assert exponentials["block"] > exponentials["none"]
