"""Neural attention against its equation in NumPy float64, as the paper writes it: on concatenated features."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import NeuralAttention
from jattn.attention.neural import ScoreNetwork
from jattn.core import MLP
from jattn.errors import UserError
from tests import calls

B, H, D, T, S, C = 2, 3, 6, 7, 11, 13


def softmax(logits):
    """Softmax over the last axis; zeros where all are -inf."""
    shifted = np.exp(logits - np.maximum(logits.max(-1, keepdims=True), -1e30))
    return shifted / np.maximum(shifted.sum(-1, keepdims=True), 1e-300)


def oracle(module, variables, x, context, allowed):
    """The equation: output (B, T, C), weights and scores (B, H, T, S). allowed: bool (B, h, T, S)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nn.unbox(variables)["params"])
    x, context = np.asarray(x, np.float64), np.asarray(context, np.float64)

    def project(name, tokens):
        heads = np.einsum("btc,chd->bhtd", tokens, params[name]["kernel"])
        return heads + params[name]["bias"][:, None] if "bias" in params[name] else heads

    def turn(heads):
        half = heads.shape[-1] // 2
        angles = np.exp(1j * np.arange(heads.shape[2])[:, None] * module.rotary_base ** (-np.arange(half) / half))
        points = (heads[..., :half] + 1j * heads[..., half:]) * angles
        return np.concatenate([points.real, points.imag], -1)

    q, k, v = project("query", x), project("key", context), project("value", context)
    if module.rotary:
        q, k = turn(q), turn(k)
    network, scores = params["score"], []
    depth = sum(name.startswith("hidden") and name.endswith("bias") for name in network)
    for h in range(module.num_heads):

        def layer(name, x, h=h):
            kernel, bias = network[f"{name}_kernel"], network[f"{name}_bias"]
            return x @ kernel[:, h % kernel.shape[1]] + bias[h % kernel.shape[1]]

        a, b = layer("query", q[:, h]), layer("key", k[:, h])
        first = np.concatenate([network["hidden_0_query_kernel"], network["hidden_0_key_kernel"]])
        network["hidden_0_kernel"] = first
        pairs = np.broadcast_arrays(a[:, :, None], b[:, None])
        units = np.maximum(layer("hidden_0", np.concatenate(pairs, -1)), 0)
        for i in range(1, depth):
            units = np.maximum(layer(f"hidden_{i}", units), 0)
        scores.append(layer("output", units)[..., 0])
    scores = np.stack(scores, 1)
    weights = softmax(np.where(allowed, scores, -np.inf))
    y = np.einsum("bhts,bhsd,hdc->btc", weights, v, params["out"]["kernel"])
    return y + params["out"].get("bias", 0.0), weights, scores


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def random_variables(module, x, context=None):
    """What `init` makes, with scores spread out and no bias left at zero."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        kernel_of_score = all(word in jax.tree_util.keystr(path) for word in ("score", "kernel"))
        moved = 1.4 * leaf if kernel_of_score else leaf + 0.3 * rng.standard_normal(leaf.shape)
        return jnp.asarray(moved, jnp.float32)

    variables = jax.jit(module.init)(jax.random.key(1), x, context=context)
    return jax.tree_util.tree_map_with_path(draw, jax.device_get(nn.unbox(variables)))


CALLS = {
    "plain": ({}, None, False),
    "causal": ({"causal": True}, None, False),
    "wide": ({"projection_dim": 5, "use_bias": False}, None, False),
    "a network a head": ({"shared_network": False, "projection_dim": 4, "causal": True}, None, False),
    "one hidden layer": ({"hidden_dims": (5,)}, None, False),
    "three hidden layers": ({"hidden_dims": (3, 5, 2), "shared_network": False}, None, False),
    "rotary": ({"rotary": True, "rotary_base": 100}, None, False),
    "padding": ({"projection_dim": 4}, "padding", False),
    "causal padding": ({"causal": True}, "padding", False),
    "causal segments": ({"causal": True, "shared_network": False}, "segments", False),
    "pairs of each head": ({"projection_dim": 3}, "pairs", False),
    "context with padding": ({"shared_network": False}, "padding", True),
}


def arguments(call):
    """Module, variables, x, mask, context and allowed pairs of a call."""
    fields, kind, crossed = CALLS[call]
    module = NeuralAttention(num_heads=H, head_dim=D, **fields)
    x, context = tokens(B, T, C), tokens(B, S, C, seed=1) if crossed else None
    keys = S if crossed else T
    mask, allowed = None, np.ones((B, 1, T, keys), bool)
    if kind == "padding":
        mask = np.arange(keys) != np.array([[0], [3]])  # causal: the first query of example 0 has no key
        allowed = allowed & mask[:, None, None]
    if kind == "pairs":
        mask = np.random.default_rng(2).random((B, H, T, keys)) < 0.5
        mask[:, :, 3] = False  # a query without a key
        allowed = mask
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
    expected, weights, scores = oracle(module, variables, x, x if context is None else context, allowed)
    assert scores.std((2, 3)).min() > 0.1  # of every head

    @jax.jit
    def call(variables, x, mask, context):
        found = module.apply(variables, x, mask, context=context, method="weights")
        return *module.apply(variables, x, mask, context=context, mutable=["energies"]), found

    y, sown, found = call(variables, x, mask, context)
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(found, weights, atol=5e-6)
    real = np.ones((B, T), bool) if mask is None or context is not None or mask.ndim > 2 else np.asarray(mask) != 0
    pairs = np.broadcast_to(allowed & real[:, None, :, None], scores.shape)
    np.testing.assert_allclose(sown["energies"]["energy"][0], np.abs(scores)[pairs].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("head_dim", "released", "default"), [(16, 0, 2), (33, 1, 2), (63, 1, 2), (64, 2, 2), (96, 3, 3), (160, 5, 5)]
)
def test_the_released_code_lets_the_projection_vanish_and_the_default_does_not(head_dim, released, default):
    x = tokens(B, T, C)

    def sizes(**fields):
        module = NeuralAttention(num_heads=1, head_dim=head_dim, **fields)
        shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x))["params"]["score"]
        return tuple(shapes[f"{name}_kernel"].shape[-1] for name in ("query", "hidden_0_key", "hidden_1", "output"))

    assert sizes(as_published=True) == (released, released, released // 2, 1)
    assert sizes() == (default, default, default // 2, 1)


@pytest.mark.parametrize("head_dim", [16, 40])
def test_below_64_features_a_head_the_released_code_only_averages(head_dim):
    """The constant score leaves what it is made of without gradient; the default looks at its tokens."""
    x = tokens(B, T, C)

    def gradients(module):
        variables = random_variables(module, x)
        weights = jax.jit(functools.partial(module.apply, method="weights"))(variables, x)
        loss = jax.jit(jax.grad(lambda variables: jnp.sum(jnp.sin(module.apply(variables, x)))))
        return weights, loss(variables)["params"]

    mean = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    released = NeuralAttention(num_heads=H, head_dim=head_dim, causal=True, as_published=True)
    weights, found = gradients(released)
    np.testing.assert_allclose(weights, np.broadcast_to(mean, weights.shape), atol=1e-6)
    for name in ("query", "key"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(found[name]))
    assert np.any(found["value"]["kernel"])

    weights, found = gradients(released.clone(as_published=False))
    assert np.abs(np.asarray(weights) - mean).max() > 0.1
    for name in ("query", "key"):
        assert np.any(found[name]["kernel"])


def test_scores_are_alive_from_the_start_where_those_of_the_released_code_often_are_not():
    x = tokens(B, 31, C)

    def dead(module):
        def spread(key):
            variables = nn.unbox(module.init(key, x))
            return jnp.std(module.apply(variables, x, method="weights"))

        return int(np.sum(jax.jit(jax.vmap(spread))(jax.random.split(jax.random.key(0), 48)) < 1e-6))

    module = NeuralAttention(num_heads=1, head_dim=64)
    assert dead(module) == 0
    assert 8 < dead(module.clone(as_published=True)) < 40


@pytest.mark.parametrize(("as_published", "largest"), [(True, 64**-0.5), (False, None)])
def test_the_released_initialisation_is_pytorchs(as_published, largest):
    module = NeuralAttention(num_heads=H, head_dim=64, projection_dim=32, as_published=as_published)
    params = calls.init(module, tokens(B, T, C))["params"]["score"]
    if as_published:
        assert 0.9 * largest < np.abs(params["query_kernel"]).max() <= largest
        assert 0.9 * largest < np.abs(params["hidden_0_key_kernel"]).max() <= largest  # it reads 2 x 32 features
        assert 0.9 * 32**-0.5 < np.abs(params["hidden_1_kernel"]).max() <= 32**-0.5
        assert np.abs(params["hidden_1_bias"]).max() > 0.5 * 32**-0.5
    else:
        np.testing.assert_allclose(params["query_kernel"].std(), 64**-0.5, rtol=0.1)
        np.testing.assert_allclose(params["hidden_0_query_kernel"].std(), 64**-0.5, rtol=0.1)
        np.testing.assert_allclose((params["hidden_1_kernel"] ** 2).mean(), 2 / 32, rtol=0.2)
        assert np.all(params["hidden_1_kernel"].sum(0) >= 0)
        assert not np.any(params["hidden_1_bias"])


def test_scores_begin_at_about_unit_size():
    x = tokens(B, 31, C)
    module = NeuralAttention(num_heads=8, head_dim=64, projection_dim=8, shared_network=False)

    def energy(key):
        variables = nn.unbox(module.init(key, x))
        return module.apply(variables, x, mutable=["energies"])[1]["energies"]["energy"][0]

    energies = jax.jit(jax.vmap(energy))(jax.random.split(jax.random.key(0), 4))
    assert 0.3 < energies.mean() < 2


def test_one_network_serves_all_heads_or_each_has_its_own():
    x = tokens(B, T, C)
    shapes = {
        shared: nn.unbox(
            jax.eval_shape(NeuralAttention(num_heads=H, shared_network=shared, head_dim=D).init, jax.random.key(0), x)
        )["params"]["score"]
        for shared in (True, False)
    }
    assert shapes[True]["query_kernel"].shape == (D, 1, 2)
    assert shapes[False]["query_kernel"].shape == (D, H, 2)


def test_equal_scores_give_the_mean_of_the_tokens_in_sight():
    module = NeuralAttention(num_heads=1, use_bias=False, causal=True)
    x = jnp.asarray([[0.0, 3.0], [2.0, 1.0], [4.0, 5.0]])
    params = random_variables(module, x)["params"]
    eye = jnp.eye(2)
    params |= {"value": {"kernel": eye[:, None]}, "out": {"kernel": eye[None]}}
    params["score"]["output_kernel"] = jnp.zeros_like(params["score"]["output_kernel"])
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x), [[0, 3], [1, 2], [2, 3]], atol=1e-6)


def test_64_tokens_decoded_one_by_one_are_those_of_one_pass():
    module = NeuralAttention(num_heads=H, head_dim=D, causal=True, projection_dim=4)
    x = tokens(B, 64, C)
    variables = random_variables(module, x)
    full = calls.apply(module, variables, x)
    decoder = module.clone(decode=True)
    cache = calls.init(decoder, x)["cache"]
    assert cache["cached_key"].shape == (B, H, 64, 4)  # the network's features of a key, not its D own

    @jax.jit
    def step(cache, token):
        return decoder.apply({**variables, "cache": cache}, token, mutable=["cache"])

    for t in range(64):
        y, updated = step(cache, np.asarray(x)[:, t : t + 1])
        cache = updated["cache"]
        np.testing.assert_allclose(np.asarray(y)[:, 0], full[:, t], atol=2e-5, rtol=1e-4)


def test_features_stay_in_float32_when_the_computation_is_in_bfloat16():
    module = NeuralAttention(num_heads=H, head_dim=D, causal=True, decode=True, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens(B, T, C))
    assert shapes["cache"]["cached_key"].dtype == jnp.float32
    assert shapes["cache"]["cached_value"].dtype == jnp.bfloat16

    network = ScoreNetwork(projection_dim=4, hidden_dims=(4, 2), shared=True, as_published=False)
    q, k = (np.asarray(tokens(B, H, T, D, seed=seed)).astype(jnp.bfloat16) for seed in range(2))
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(np.float32), calls.init(network, q, k))
    found, exact = (
        calls.apply(network, rounded, *(x.astype(kind) for x in (q, k))) for kind in (jnp.bfloat16, jnp.float32)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, exact)


def test_nothing_as_large_as_the_matrix_of_pairs_is_built():
    length, heads = 4096, 2
    module = NeuralAttention(num_heads=heads, head_dim=16, causal=True, projection_dim=4)
    x = jax.ShapeDtypeStruct((1, length, 32), jnp.float32)
    variables = jax.eval_shape(lambda x: nn.unbox(module.init(jax.random.key(0), x)), x)

    def scratch(module):
        train = jax.jit(jax.grad(lambda variables, x: module.apply(variables, x).sum(), argnums=(0, 1)))
        return train.lower(variables, x).compile().memory_analysis().temp_size_in_bytes

    matrix = heads * length**2 * 4
    assert scratch(module) < matrix / 4
    assert scratch(module.clone(implementation="dense")) > matrix


def test_options_that_leave_no_score_are_refused():
    with pytest.raises(UserError, match=r"projection_dim is 1, which .*: it must be at least 2, or None for head_dim"):
        NeuralAttention(num_heads=1, projection_dim=1)
    with pytest.raises(UserError, match=r"projection_dim is -1, which .*: it must be at least 0, or None"):
        NeuralAttention(num_heads=1, projection_dim=-1, as_published=True)
    assert NeuralAttention(num_heads=1, projection_dim=1, as_published=True).network_sizes(8) == (1, (1, 0))
    for wrong in ((), (4, 0)):
        with pytest.raises(UserError, match=r"hidden_dims is \(.*: give one number of units, at least 1, for each"):
            NeuralAttention(num_heads=1, hidden_dims=wrong)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"causal": True, "projection_dim": 8},
        {"use_bias": False, "shared_network": False, "hidden_dims": (5, 4, 3)},
        {"hidden_dims": (6,), "rotary": True},
    ],
)
@pytest.mark.parametrize(("queries", "keys", "width"), [(64, 64, 32), (32, 96, 64)])
def test_cost_is_what_xla_counts_on_the_dense_path(fields, queries, keys, width):
    module = NeuralAttention(num_heads=4, implementation="dense", **fields)
    x, context = (jax.ShapeDtypeStruct((2, n, width), jnp.float32) for n in (queries, keys))
    context = None if queries == keys else context
    variables = jax.eval_shape(lambda x, c: module.init(jax.random.key(0), x, context=c), x, context)

    def call(variables, x, context):
        return module.apply(variables, x, context=context)

    # The program's operations. Of what is compiled only the traffic is compared: XLA fuses some of these scores, not
    # others, into both the maximum and the exponentials, and computes them twice.
    lowered = jax.jit(call).lower(variables, x, context)
    cost = module.cost(queries, keys, width=width, batch=2)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(lowered.cost_analysis()["flops"], rel=0.05)
    assert cost.bytes < lowered.compile().cost_analysis()["bytes accessed"]


def test_cost_counts_by_hand():
    # One token of 2 features, one head of 2, d' = 2: four projections of 2 x 2 + 2; two of 2 x 2 + 2 to features; the
    # first layer 4 x 2 + 2, the second 2 + 1, the third 1 + 1; one pair: 2 x 2 + 5 + 2, 5, 2 x 2.
    cost = NeuralAttention(num_heads=1).cost(1, width=2)
    assert cost.params == 4 * 6 + 2 * 6 + 10 + 3 + 2
    assert cost.flops == 4 * 10 + 2 * 10 + (8 + 2) + 8 + 11 + 5 + 4


def test_the_score_of_a_call_is_the_cores(monkeypatch):
    seen = []
    kept = NeuralAttention.attend
    monkeypatch.setattr(NeuralAttention, "attend", lambda *a, **options: seen.append(options) or kept(*a, **options))
    jax.eval_shape(NeuralAttention(num_heads=1).init, jax.random.key(0), tokens(B, T, 4))
    assert [type(options["score"]) for options in seen] == [MLP]
