"""Softmax attention against its equation in NumPy float64, closed forms, and flax's own module."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import core
from jattn.attention import SoftmaxAttention
from jattn.errors import UserError
from tests import calls
from tests.calls import random_variables

B, H, D, T, S, C = 2, 6, 4, 7, 11, 13


def softmax(logits):
    """Softmax over the last axis; zeros where all are -inf."""
    shifted = np.exp(logits - np.maximum(logits.max(-1, keepdims=True), -1e30))
    return shifted / np.maximum(shifted.sum(-1, keepdims=True), 1e-300)


def oracle(module, params, x, context, allowed):
    """The equation: output (B, T, C), weights (B, H, T, S) and scores. allowed: bool (B, 1|H, T, S)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nn.unbox(params))
    x, context = np.asarray(x, np.float64), np.asarray(context, np.float64)

    def project(name, tokens):
        heads = np.einsum("btc,chd->bhtd", tokens, params[name]["kernel"])
        return heads + params[name]["bias"][:, None] if module.use_bias else heads

    def turn(heads):
        half = heads.shape[-1] // 2
        frequencies = module.rotary_base ** (-np.arange(half) / half)
        angles = np.exp(1j * np.arange(heads.shape[2])[:, None] * frequencies)
        points = (heads[..., :half] + 1j * heads[..., half:]) * angles
        return np.concatenate([points.real, points.imag], -1)

    q, k, v = project("query", x), project("key", context), project("value", context)
    if module.qk_norm:
        q = q / np.sqrt((q**2).mean(-1, keepdims=True) + 1e-6) * params["query_norm"]["scale"]
        k = k / np.sqrt((k**2).mean(-1, keepdims=True) + 1e-6) * params["key_norm"]["scale"]
    if module.rotary:
        q, k = turn(q), turn(k)
    k, v = (np.repeat(heads, module.num_heads // heads.shape[1], axis=1) for heads in (k, v))
    scale = q.shape[-1] ** -0.5 if module.scale is None else module.scale
    scores = scale * np.einsum("bhtd,bhsd->bhts", q, k)
    weights = softmax(np.where(allowed, scores, -np.inf))
    y = np.einsum("bhts,bhsd,hdc->btc", weights, v, params["out"]["kernel"])
    return (y + params["out"]["bias"] if module.use_bias else y), weights, scores


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# Each option and each kind of mask, with and without causality, and a context with each kind of mask that it may have.
CALLS = {
    "plain": ({}, None, False),
    "causal, rotary": ({"rotary": True, "rotary_base": 100, "causal": True}, None, False),
    "scaled without biases, padding": ({"use_bias": False, "scale": 2}, "padding", False),
    "one key head, causal padding": ({"num_key_heads": 1, "causal": True}, "padding", False),
    "normed, segments": ({"qk_norm": True}, "segments", False),
    "causal segments": ({"causal": True, "rotary": True}, "segments", False),
    "pairs": ({"num_key_heads": 3}, "pairs", False),
    "causal pairs of each head": ({"causal": True, "num_key_heads": 2}, "pairs of each head", False),
    "context": ({}, None, True),
    "context with pairs": ({"use_bias": False}, "pairs", True),
    "context with padding": ({"num_key_heads": 3, "qk_norm": True, "rotary": True}, "padding", True),
}


def arguments(call):
    """Module, variables, x, mask, context and allowed pairs of a call."""
    fields, kind, crossed = CALLS[call]
    module = SoftmaxAttention(num_heads=H, head_dim=D, **fields)
    x, context = tokens(B, T, C), tokens(B, S, C, seed=1) if crossed else None
    keys = S if crossed else T
    mask, allowed = None, np.ones((B, 1, T, keys), bool)
    if kind == "padding":
        mask = np.arange(keys) != np.array([[0], [3]])  # causal: the first query of example 0 has no key
        allowed = allowed & mask[:, None, None]
    if kind in ("pairs", "pairs of each head"):
        heads = (H,) if kind == "pairs of each head" else ()
        mask = np.random.default_rng(2).random((B, *heads, T, keys)) < 0.5
        mask[..., 3, :] = False  # a query without a key
        allowed = allowed & mask.reshape(B, -1, T, keys)
    if kind == "segments":
        mask = np.array([[3, 3, 3, 5, 5, 0, 0], [0, 2, 2, 1, 1, 1, 2]], np.int32)
        allowed = ((mask[:, :, None] == mask[:, None]) & (mask != 0)[:, None])[:, None]
    if module.causal:
        allowed = allowed & np.tril(np.ones((T, keys), bool))
    variables = random_variables(module, x, context)
    return module, variables, x, None if mask is None else jnp.asarray(mask), context, allowed


@pytest.mark.parametrize("call", CALLS)
def test_output_weights_and_energy_are_those_of_the_equation(call):
    module, variables, x, mask, context, allowed = arguments(call)
    expected, weights, scores = oracle(module, variables["params"], x, x if context is None else context, allowed)

    y, sown = calls.apply(module, variables, x, mask, context=context, mutable=["energies", "intermediates"])
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], weights, atol=2e-6)

    real = np.ones((B, T), bool) if mask is None or context is not None or mask.ndim > 2 else np.asarray(mask) != 0
    pairs = np.broadcast_to(allowed & real[:, None, :, None], scores.shape)
    np.testing.assert_allclose(sown["energies"]["energy"][0], np.abs(scores)[pairs].mean(), rtol=1e-5)
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)), -1)
    rows = sown["intermediates"]["statistics"][0]
    np.testing.assert_allclose(rows.entropy, entropy, atol=2e-5)
    visible = np.broadcast_to(allowed, scores.shape).sum(-1)
    attended = (weights >= core.SPARSE / np.maximum(visible, 1)[..., None]).sum(-1)
    np.testing.assert_allclose(rows.sparsity, np.where(visible, 1 - attended / np.maximum(visible, 1), 0), atol=1e-6)


@pytest.mark.parametrize("call", ["causal segments", "context with padding"])
def test_weights_are_those_of_the_equation_in_float32(call):
    module, variables, x, mask, context, allowed = arguments(call)
    _, weights, _ = oracle(module, variables["params"], x, x if context is None else context, allowed)
    found = calls.apply(module, variables, x, mask, context=context, method="weights")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weights, atol=2e-6)


class Variants(chex.TestCase):
    """However it is called, the output is the same."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    def test_output(self):
        module, variables, x, mask, _, allowed = arguments("causal segments")
        expected, _, _ = oracle(module, variables["params"], x, x, allowed)
        y = self.variant(module.apply)(variables, x, mask)
        chex.assert_shape(y, (B, T, C))
        np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)


def test_flaxs_own_attention_gives_the_same():
    module, variables, x, _, _, _ = arguments("plain")
    theirs = nn.MultiHeadDotProductAttention(num_heads=H, qkv_features=H * D)
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), jax.jit(theirs.apply)(variables, x), atol=2e-5)


def test_initial_parameters_are_flaxs():
    modules = (
        SoftmaxAttention(num_heads=H, head_dim=D),
        nn.MultiHeadDotProductAttention(num_heads=H, qkv_features=H * D),
    )
    ours, theirs = jax.jit(lambda x: [nn.unbox(module.init(jax.random.key(3), x)) for module in modules])(
        tokens(B, T, C)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)


def averaging(**fields):
    """The compiled call of one head whose queries and keys are zero, and whose values are the tokens' two features."""
    module = SoftmaxAttention(num_heads=1, use_bias=False, **fields)
    zero, eye = {"kernel": np.zeros((2, 1, 2), np.float32)}, np.eye(2, dtype=np.float32)
    params = {"query": zero, "key": zero, "value": {"kernel": eye[:, None]}, "out": {"kernel": eye[None]}}
    return functools.partial(calls.apply, module, {"params": params})


def test_equal_scores_give_the_mean_of_the_tokens_in_sight():
    x, call = jnp.asarray([[0.0, 3.0], [2.0, 1.0], [4.0, 5.0]]), averaging()
    np.testing.assert_allclose(call(x), [[2, 3]] * 3, atol=1e-6)
    np.testing.assert_allclose(call(x, jnp.asarray([True, False, True])), [[2, 4]] * 3, atol=1e-6)
    np.testing.assert_array_equal(call(x, np.zeros(3, bool)), np.zeros((3, 2)))
    np.testing.assert_allclose(averaging(causal=True)(x), [[0, 3], [1, 2], [2, 3]], atol=1e-6)


def test_dropout_keeps_the_mean():
    call, x = averaging(dropout_rate=0.5), np.broadcast_to(np.float32([4, 6]), (64, 16, 2))
    y = call(x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    # Each output is (a sum of 16 weights that are 0 or 1/8) times the token: its standard deviation is 0.25 tokens,
    # that of the mean over 1,024 outputs 0.25 / 32.
    np.testing.assert_allclose(y.mean((0, 1)), [4, 6], rtol=5 * 0.25 / 32)
    np.testing.assert_allclose((y / x).std((0, 1)), 0.25, rtol=0.2)
    np.testing.assert_allclose(call(x), x, rtol=1e-6)


def test_rotary_positions_let_only_differences_matter():
    module = SoftmaxAttention(num_heads=H, head_dim=D, rotary=True)
    x = np.asarray(tokens(1, 3, C))
    call = functools.partial(calls.apply, module, random_variables(module, x))
    padded = np.concatenate([np.zeros((1, 9, C), np.float32), x], 1)
    shifted = call(padded, np.arange(12)[None] >= 9)[:, 9:]
    np.testing.assert_allclose(shifted, call(x), atol=2e-5)
    assert not np.allclose(call(x[:, ::-1])[:, ::-1], shifted, atol=1e-2)


def test_the_dtype_of_the_output_is_that_of_the_computation():
    x, module = tokens(B, T, C), SoftmaxAttention(num_heads=H, head_dim=D, qk_norm=True, rotary=True)
    variables = random_variables(module, x)

    def dtype(module, x):
        return jax.eval_shape(module.apply, variables, x).dtype

    assert dtype(module, x.astype(jnp.bfloat16)) == jnp.float32  # as the parameters
    assert dtype(module.clone(dtype=jnp.bfloat16), x) == jnp.bfloat16


def test_nothing_is_sown_unless_asked_for():
    module, variables, x, *_ = arguments("plain")

    def sown(*collections):
        return set(jax.eval_shape(lambda: module.apply(variables, x, mutable=list(collections))[1]))

    assert sown("losses") == set()
    assert sown("losses", "energies") == {"energies"}


def test_key_heads_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"num_key_heads 4 does not divide num_heads 6: choose from 1, 2, 3, 6"):
        calls.shapes(SoftmaxAttention(num_heads=6, head_dim=2, num_key_heads=4), np.zeros((3, 12), np.float32))


@pytest.mark.parametrize(
    ("fields", "queries", "keys"),
    [
        ({}, 64, 64),
        ({"causal": True}, 32, 96),
        ({"use_bias": False, "num_key_heads": 2}, 32, 96),
        ({"num_key_heads": 1, "qk_norm": True, "rotary": True}, 32, 96),
    ],
)
def test_cost_is_what_xla_counts_on_the_dense_path(fields, queries, keys):
    module = SoftmaxAttention(num_heads=4, implementation="dense", **fields)
    lowered, variables = calls.lowered(module, queries, keys, width=64)
    counted = lowered.compile().cost_analysis()
    cost = module.cost(queries, keys, width=64, batch=2)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(counted["flops"], rel=0.05)
    assert cost.bytes < counted["bytes accessed"]  # the dense path moves the matrix of weights besides


def test_cost_counts_by_hand():
    # One token of 2 features, one head of 2: four projections of 2 x 2 + 2; one pair: 2 * 2 + 1, 5, 2 * 2.
    cost = SoftmaxAttention(num_heads=1).cost(1, width=2)
    assert cost.params == 4 * 6
    assert cost.flops == 4 * (8 + 2) + 5 + 5 + 4
    assert cost.bytes == 4 * (4 * 6 + 4 * (2 + 2) + 4 * 2)


def test_a_query_without_a_key_gives_zeros_and_as_published_the_mean():
    x, others = tokens(B, T, C), np.arange(T) != 3
    mask = (np.random.default_rng(2).random((B, T, T)) < 0.5) & others[:, None]
    ours = SoftmaxAttention(num_heads=H, head_dim=D, use_bias=False)
    published = SoftmaxAttention(num_heads=H, head_dim=D, use_bias=False, as_published=True)
    variables = random_variables(ours, x)
    out = variables["params"]["out"]["kernel"]
    mean = np.einsum("btc,chd->bhd", x, variables["params"]["value"]["kernel"]) / T
    y = calls.apply(ours, variables, x, mask)
    np.testing.assert_array_equal(y[:, 3], 0.0)

    @jax.jit
    def with_gradient(x, mask, cotangent):
        y, pull = jax.vjp(lambda x: published.apply(variables, x, mask), x)
        return y, *pull(cotangent)

    # All tokens have the same share in row 3: its gradient reaches them evenly.
    of_row = np.broadcast_to(np.where(others, 0, 1)[:, None], x.shape).astype(np.float32)
    found, gradient = jax.device_get(with_gradient(x, mask, of_row))
    np.testing.assert_allclose(found[:, 3], np.einsum("bhd,hdc->bc", mean, out), atol=1e-5)
    np.testing.assert_allclose(found[:, others], y[:, others], atol=1e-5)
    np.testing.assert_allclose(gradient, np.broadcast_to(gradient.mean(1, keepdims=True), gradient.shape), atol=1e-5)
