"""Convolution over tokens against its equation in NumPy float64, token by token and tap by tap, and closed forms."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import Conv1dAttention
from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from tests import calls
from tests.calls import random_variables

B, H, D, T, C = 2, 3, 5, 11, 13


def oracle(module, params, x, allowed):
    """The equation: output (B, T, C) and weights (B, H, T, S). allowed: bool (B, H, T, S)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nn.unbox(params))

    def bias(name):
        return params[name]["bias"] if module.use_bias else 0.0

    values = np.einsum("btc,chd->bthd", np.asarray(x, np.float64), params["value"]["kernel"]) + bias("value")
    kernel, k = params["conv"]["kernel"], module.kernel_size
    before = k - 1 if module.causal else (k - 1) // 2
    out, weights = np.zeros((B, H, T, D)), np.zeros((B, H, T, T))
    for b, h, t in np.ndindex(B, H, T):
        for i in range(k):
            s = t + i - before
            if 0 <= s < T and allowed[b, h, t, s]:
                out[b, h, t] += values[b, s, h] @ kernel[i]
                weights[b, h, t, s] = np.sqrt((kernel[i] ** 2).sum())
    out = out + bias("conv")
    if module.as_published:
        out = out.reshape(B, H, D, T).transpose(0, 1, 3, 2)
    return np.einsum("bhtd,hdc->btc", out, params["out"]["kernel"]) + bias("out"), weights


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


CALLS = {
    "plain": ({"kernel_size": 3}, None),
    "even": ({"kernel_size": 4}, None),
    "one tap": ({"kernel_size": 1, "use_bias": False}, None),
    "longer than the sequence": ({"kernel_size": 17}, None),
    "causal": ({"kernel_size": 4, "causal": True}, None),
    "padding": ({"kernel_size": 5}, "padding"),
    "segments": ({"kernel_size": 4}, "segments"),
    "causal segments": ({"kernel_size": 3, "causal": True, "use_bias": False}, "segments"),
    "pairs": ({"kernel_size": 6}, "pairs"),
    "pairs of each head": ({"kernel_size": 3, "causal": True}, "pairs of each head"),
    "released": ({"kernel_size": 4, "as_published": True}, None),
    "released, padding": ({"kernel_size": 3, "as_published": True}, "padding"),
}


def arguments(call):
    """Module, variables, x, mask and allowed pairs of a call."""
    fields, kind = CALLS[call]
    module, x = Conv1dAttention(num_heads=H, head_dim=D, **fields), tokens(B, T, C)
    rng, mask, allowed = np.random.default_rng(1), None, np.ones((B, T, T), bool)
    if kind == "padding":
        mask = rng.random((B, T)) < 0.7
        allowed = np.broadcast_to(mask[:, None], (B, T, T))
    elif kind == "segments":
        mask = np.array([[3, 3, 3, 5, 5, 0, 5, 5, 5, 0, 0], [0, 2, 2, 1, 1, 1, 2, 2, 3, 3, 3]], np.int32)
        allowed = (mask[:, :, None] == mask[:, None]) & (mask != 0)[:, None]
    elif kind is not None:
        mask = rng.random((B, H, T, T) if kind == "pairs of each head" else (B, T, T)) < 0.6
        allowed = mask
    allowed = allowed if allowed.ndim == 4 else np.broadcast_to(allowed[:, None], (B, H, T, T))
    return module, random_variables(module, x), x, None if mask is None else jnp.asarray(mask), allowed


@pytest.mark.parametrize("call", CALLS)
def test_output_and_weights_are_those_of_the_equation(call):
    module, variables, x, mask, allowed = arguments(call)
    expected, weights = oracle(module, variables["params"], x, allowed)

    @jax.jit
    def evaluate(variables, x, mask):
        return module.apply(variables, x, mask), module.apply(variables, x, mask, method="weights")

    y, found = evaluate(variables, x, mask)
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(found, weights, rtol=1e-5)


def moving_average(**fields):
    """The compiled call of one head of two features whose taps are identities, and whose projections are too."""
    eye = jnp.eye(2)
    params = {
        "value": {"kernel": eye[:, None]},
        "conv": {"kernel": jnp.broadcast_to(eye, (fields["kernel_size"], 2, 2))},
        "out": {"kernel": eye[None]},
    }
    module = Conv1dAttention(num_heads=1, use_bias=False, **fields)
    return functools.partial(calls.apply, module, {"params": params})


def test_identity_taps_give_the_sum_of_the_tokens_in_reach():
    x = jnp.asarray([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]])

    def first(**fields):
        return moving_average(**fields)(x)[:, 0].tolist()

    assert first(kernel_size=3) == [3, 7, 14, 12]
    assert first(kernel_size=4) == [7, 15, 14, 12]  # one token before, two after
    assert first(kernel_size=3, causal=True) == [1, 3, 7, 14]
    masked = moving_average(kernel_size=3)(x, jnp.asarray([True, False, True, True]))
    assert masked[:, 1].tolist() == [10, 50, 120, 120]
    packed = moving_average(kernel_size=3)(x, jnp.asarray([1, 1, 2, 0]))
    assert packed[:, 0].tolist() == [3, 3, 4, 0]


def test_the_released_merge_of_heads_mixes_tokens_and_the_default_does_not():
    x = jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    # One tap: a token may only see itself. Read row by row as 2 x 3, the numbers 1 ... 6 are [1 2 3] and [4 5 6].
    np.testing.assert_array_equal(moving_average(kernel_size=1, as_published=True)(x), [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(moving_average(kernel_size=1)(x), x)


def test_dropout_of_the_outputs_keeps_their_mean():
    call, x = moving_average(kernel_size=1, dropout_rate=0.25), jnp.full((64, 16, 2), 6.0)
    y = call(x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(np.unique(y), [0, 8], rtol=1e-6)
    # 2,048 numbers that are 0 or 8: their mean has a standard deviation of 8 sqrt(3 / 16 / 2048).
    assert abs(float(y.mean()) - 6) < 5 * 8 * (3 / 16 / 2048) ** 0.5
    np.testing.assert_array_equal(call(x), x)


@pytest.mark.parametrize("kind", ["none", "segments"])
def test_nothing_is_as_large_as_the_pairs(kind):
    length = 2048
    module = Conv1dAttention(num_heads=2, head_dim=3, kernel_size=5)
    x = jax.ShapeDtypeStruct((1, length, 6), jnp.float32)
    mask = None if kind == "none" else jax.ShapeDtypeStruct((1, length), jnp.int32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def train(variables, x, mask):
        return jax.grad(lambda variables: module.apply(variables, x, mask).sum())(variables)

    memory = jax.jit(train).lower(variables, x, mask).compile().memory_analysis()
    assert memory.temp_size_in_bytes < length**2  # a quarter of one float32 matrix of pairs


def test_cost_is_what_xla_counts():
    module = Conv1dAttention(num_heads=4, kernel_size=5)
    x = jax.ShapeDtypeStruct((2, 64, 32), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    counted = jax.jit(module.apply).lower(variables, x).compile().cost_analysis()
    cost = module.cost(64, width=32, batch=2)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(counted["flops"], rel=0.05)
    # Two tokens of 2 features, one head: two projections, and 3 taps of 2 x 2, each with a bias.
    by_hand = Conv1dAttention(num_heads=1, kernel_size=3).cost(2, width=2)
    assert by_hand.params == 2 * 6 + 14
    assert by_hand.flops == 2 * (2 * (8 + 2) + 24 + 2)
    assert by_hand.bytes == 4 * (26 + 3 * 2 * 4)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kernel_size": 0}, "kernel_size is 0: a convolution needs at least 1 token"),
        ({"causal": True, "as_published": True}, "as_published=True has no causal form.* use as_published=False"),
        ({"implementation": "dense"}, "Conv1dAttention has no choice of implementation"),
    ],
)
def test_impossible_options_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        Conv1dAttention(num_heads=2, **fields)


def test_a_kernel_size_is_an_integer():
    with pytest.raises(UserError, match=r"option kernel_size of mechanism 'conv1d' is 2\.5: it must be int"):
        mechanism("conv1d", {"kernel_size": 2.5})
