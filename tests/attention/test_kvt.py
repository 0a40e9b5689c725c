"""k-NN attention against its equation in NumPy float64, and what it keeps of the keys."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import KvtAttention, SoftmaxAttention
from jattn.core import AtLeast, Causal, Dot, Padding, attend, statistics, thresholds
from jattn.core import threshold as threshold_module
from jattn.errors import UserError
from tests import calls

random_variables = functools.partial(calls.random_variables, spread=0.5)

B, H, D, T, S, C = 2, 3, 5, 7, 11, 13


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def oracle(module, variables, x, context, allowed):
    """The equation: output (B, T, C) and weights (B, H, T, S). allowed: bool (B, H, T, S)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nn.unbox(variables)["params"])
    x, context = np.asarray(x, np.float64), np.asarray(context, np.float64)

    def project(name, tokens):
        heads = np.einsum("btc,chd->bhtd", tokens, params[name]["kernel"])
        return heads + params[name]["bias"][:, None] if "bias" in params[name] else heads

    q, k, v = project("query", x), project("key", context), project("value", context)
    scale = q.shape[-1] ** -0.5 if module.qk_scale is None else module.qk_scale
    scores = np.where(allowed, scale * np.einsum("bhtd,bhsd->bhts", q, k), -np.inf)
    rank = np.argsort(np.argsort(-scores, axis=-1), axis=-1)
    scores = np.where(rank < module.topk, scores, -np.inf)
    shifted = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e30))
    weights = shifted / np.maximum(shifted.sum(-1, keepdims=True), 1e-300)
    y = np.einsum("bhts,bhsd,hdc->btc", weights, v, params["out"]["kernel"])
    return y + params["out"].get("bias", 0.0), weights


# Each kind of mask, with and without causality, and each option at two values or more.
CALLS = {
    "plain": ({"topk": 3}, None, False),
    "more than there are, causal": ({"topk": 50, "causal": True}, None, False),
    "one key, biases of queries, keys and values alone, padding": (
        {"topk": 1, "qkv_bias": True, "use_bias": False},
        "padding",
        False,
    ),
    "bias of the output alone, causal padding": ({"topk": 2, "qkv_bias": False, "causal": True}, "padding", False),
    "scale, causal segments": ({"topk": 2, "qk_scale": 2, "use_bias": False, "causal": True}, "segments", False),
    "pairs": ({"topk": 3}, "pairs", False),
    "context with padding": ({"topk": 5}, "padding", True),
}


def arguments(call):
    """Module, variables, x, mask, context and allowed pairs of a call."""
    fields, kind, crossed = CALLS[call]
    module = KvtAttention(num_heads=H, head_dim=D, **fields)
    x, context = tokens(B, T, C), tokens(B, S, C, seed=1) if crossed else None
    keys = S if crossed else T
    mask, allowed = None, np.ones((B, H, T, keys), bool)
    if kind == "padding":
        mask = np.arange(keys) != np.array([[0], [3]])  # causal: the first query of example 0 has no key
        allowed = allowed & mask[:, None, None]
    if kind == "segments":
        mask = np.array([[3, 3, 3, 5, 5, 0, 0], [0, 2, 2, 1, 1, 1, 2]], np.int32)
        allowed = allowed & ((mask[:, :, None] == mask[:, None]) & (mask != 0)[:, None])[:, None]
    if kind == "pairs":
        mask = np.random.default_rng(5).random((B, H, T, keys)) < 0.6
        allowed = mask
    if module.causal:
        allowed = allowed & np.tril(np.ones((T, keys), bool))
    variables = random_variables(module, x, context)
    return module, variables, x, None if mask is None else jnp.asarray(mask), context, allowed


@pytest.mark.parametrize("call", CALLS)
def test_output_and_weights_are_those_of_the_equation(call):
    module, variables, x, mask, context, allowed = arguments(call)
    expected, weights = oracle(module, variables, x, x if context is None else context, allowed)

    @jax.jit
    def call(variables, x, mask, context):
        blockwise, dense = (module.clone(implementation=name) for name in ("blockwise", "dense"))
        y, sown = dense.apply(variables, x, mask, context=context, mutable=["intermediates"])
        outputs = {"blockwise": blockwise.apply(variables, x, mask, context=context), "dense": y}
        return outputs, sown["intermediates"]["weights"][0]

    outputs, found = call(variables, x, mask, context)
    for name, y in outputs.items():
        np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(found, weights, atol=2e-6)


@pytest.mark.parametrize(
    ("fields", "biased"),
    [
        ({"qkv_bias": False}, {"out"}),
        ({"qkv_bias": True, "use_bias": False}, {"query", "key", "value"}),
    ],
)
def test_queries_keys_and_values_have_biases_of_their_own_option(fields, biased):
    params = calls.shapes(KvtAttention(num_heads=H, head_dim=D, **fields), tokens(B, T, C))["params"]
    assert {name for name, layer in params.items() if "bias" in layer} == biased


@pytest.mark.parametrize(("topk", "causal"), [(100, False), (T, True)])
def test_with_all_keys_it_is_softmax_attention(topk, causal):
    x, fields = tokens(B, T, C), {"num_heads": H, "head_dim": D, "causal": causal}
    softmax = SoftmaxAttention(**fields)
    variables = random_variables(softmax, x)

    @functools.partial(jax.jit, static_argnums=0)
    def call(module):
        y, pull = jax.vjp(module.apply, variables, x)
        return y, pull(y)

    kvt = KvtAttention(topk=topk, **fields)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5, rtol=1e-5), call(kvt), call(softmax))


def test_only_as_published_more_keys_than_there_are_is_an_error():
    x = tokens(B, T, C)
    module = KvtAttention(num_heads=H, head_dim=D, topk=T + 1)
    variables = random_variables(module, x)
    assert np.isfinite(calls.apply(module, variables, x)).all()
    with pytest.raises(UserError, match=r"topk 8 of 7 keys: the released code fails there; lower topk to at most 7"):
        calls.apply(module.clone(as_published=True), variables, x)


@pytest.mark.parametrize(
    ("count", "causal", "dtype"),
    [
        (1, False, jnp.float32),
        (10, False, jnp.bfloat16),
        (100, True, jnp.float32),
        (100, True, jnp.bfloat16),
        (256, False, jnp.float32),
    ],
)
def test_exactly_so_many_keys_are_used_though_scores_are_computed_in_other_blocks(count, causal, dtype):
    length = 307  # three blocks of 103 tokens in attend, and rows of 128 here
    q, k, v = (tokens(1, 2, length, 16, seed=seed).astype(dtype) for seed in range(3))
    terms = {"bias": Causal() if causal else None, "mask": Padding()}
    k = {"features": k, "valid": jnp.asarray(np.arange(length) % 7 != 3)[None, None]}

    @jax.jit
    def used(q, k, v):
        q = {"features": q, "threshold": thresholds({"features": q}, k, count, **terms)}
        _, lse = attend(q, k, v, score=AtLeast(Dot()), **terms)
        return statistics(q, k, lse, score=AtLeast(Dot()), **terms).pairs

    there = np.cumsum(np.arange(length) % 7 != 3)
    there = there if causal else np.full(length, there[-1])
    np.testing.assert_array_equal(used(q, k, v), np.broadcast_to(np.minimum(there, count), (1, 2, length)))


def test_what_may_not_be_attended_to_is_not_counted():
    # One head of one feature: the score of a key is its token, that of a query is 1.
    module = KvtAttention(num_heads=1, head_dim=1, topk=2, use_bias=False, qk_scale=1)
    ones, x = np.ones((1, 1, 1), np.float32), np.log(np.float32([1, 4, 2, 8]))[:, None]
    params = {name: {"kernel": ones} for name in ("query", "key", "value", "out")}

    def weights(mask):
        ones_as_queries = np.ones_like(x)
        return calls.apply(module, {"params": params}, ones_as_queries, mask, context=x, method="weights")[0, 0]

    np.testing.assert_allclose(weights(np.ones(4, bool)), [0, 4 / 12, 0, 8 / 12], atol=1e-6)
    np.testing.assert_allclose(weights(np.asarray([True, True, True, False])), [0, 4 / 6, 2 / 6, 0], atol=1e-6)
    np.testing.assert_allclose(weights(np.asarray([True, False, False, False])), [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(weights(np.zeros(4, bool)), [0, 0, 0, 0])


def test_keys_that_tie_are_all_used():
    q, k = jnp.ones((1, 1, 1, 1)), jnp.asarray(np.float32([2, 3, 2, 1, 2]).reshape(1, 1, 5, 1))
    found = jax.jit(lambda q, k: [thresholds(q, k, count, score=Dot(1.0)) for count in range(1, 6)])
    np.testing.assert_allclose(np.ravel(found(q, k)), [2.5, 1.5, 1.5, 1.5, -np.inf], rtol=1e-6)
    assert np.ravel(found(q, jnp.zeros((1, 1, 5, 1))))[1] == -np.inf  # no key is worse than another


def test_scores_that_are_not_numbers_are_not_hidden():
    q = {"features": jnp.ones((1, 1)), "threshold": jnp.asarray([2.0])}
    found = AtLeast(Dot(1.0))(q, jnp.asarray([[1.0], [jnp.nan], [3.0]]), jnp.arange(1), jnp.arange(3))
    np.testing.assert_array_equal(found, [[-np.inf, np.nan, 3]])


def test_double_precision_selects_in_double_precision():
    with jax.enable_x64(True):
        q, k = np.ones((1, 1, 1, 1)), 1 + 1e-9 * np.arange(7.0).reshape(1, 1, 7, 1)
        found = jax.jit(lambda q, k: thresholds(q, k, 2, score=Dot(1.0)))(q, k)
        np.testing.assert_allclose(found.item() - 1, 4.5e-9, rtol=1e-5)


def test_no_array_is_as_large_as_all_pairs():
    module = KvtAttention(num_heads=2, topk=100, causal=True)
    x = jax.ShapeDtypeStruct((1, 2048, 16), jnp.float32)

    def largest(module):
        def train(variables, x):
            y, pull = jax.vjp(module.apply, variables, x)
            return pull(y)

        return calls.largest_array(train, calls.shapes(module, x), x)

    assert largest(module) <= 2 * 2048 * 2048 // 32
    assert largest(module.clone(implementation="dense")) >= 2 * 2048 * 2048


@pytest.mark.parametrize(
    ("fields", "queries", "keys"),
    [
        ({}, 64, 64),
        ({"causal": True, "use_bias": False}, 32, 96),
        ({"use_bias": False, "qkv_bias": True, "rotary": True}, 32, 96),
    ],
)
def test_cost_is_what_xla_counts_on_the_dense_path(fields, queries, keys, monkeypatch):
    module = KvtAttention(num_heads=4, implementation="dense", topk=7, **fields)

    def loop(start, stop, body, carry):
        return functools.reduce(lambda carry, i: body(jnp.asarray(i), carry), range(start, stop), carry)

    # XLA counts the body of a loop once: written out, each turn counts. Before it fuses, so that nothing counts twice.
    monkeypatch.setattr(threshold_module.jax.lax, "fori_loop", loop)
    monkeypatch.setattr(
        threshold_module.jax.lax,
        "while_loop",
        lambda _, body, carry: loop(0, threshold_module.HALVINGS, lambda _, carry: body(carry), carry),
    )
    program, variables = calls.lowered(module, queries, keys, width=64)
    cost = module.cost(queries, keys, width=64, batch=2)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(program.cost_analysis()["flops"], rel=0.05)
    assert cost.bytes < program.cost_analysis()["bytes accessed"]


def test_without_a_choice_cost_is_what_xla_counts_of_the_compiled_program():
    module = KvtAttention(num_heads=4, implementation="dense", topk=96)
    counted = calls.lowered(module, 32, 96, width=64)[0].compile().cost_analysis()
    cost = module.cost(32, 96, width=64, batch=2)
    assert cost.flops == pytest.approx(counted["flops"], rel=0.05)
    assert cost.bytes < counted["bytes accessed"]


def test_a_query_uses_at_least_one_key():
    with pytest.raises(UserError, match="topk is 0: a query uses at least 1 key"):
        KvtAttention(num_heads=2, topk=0)
