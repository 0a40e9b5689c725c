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

random_variables = functools.partial(calls.random_variables, spread=0.6, seed=2)  # of no head are all units dead

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


# Each kind of mask with and without causality where it has both, each option at two values or more, and the forms of
# the network with those masks that change how pairs are scored.
CALLS = {
    "plain": ({}, None, False),
    "causal, rotary": ({"causal": True, "rotary": True, "rotary_base": 100}, None, False),
    "wide, padding": ({"projection_dim": 5, "use_bias": False}, "padding", False),
    "one hidden layer, causal padding": ({"hidden_dims": (5,), "causal": True}, "padding", False),
    "a network a head, causal segments": (
        {"shared_network": False, "projection_dim": 4, "causal": True},
        "segments",
        False,
    ),
    "three hidden layers, pairs of each head": ({"hidden_dims": (3, 5, 2)}, "pairs", False),
    "a network a head, context with padding": (
        {"hidden_dims": (3, 5, 2), "shared_network": False},
        "padding",
        True,
    ),
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

    y, sown = calls.apply(module, variables, x, mask, context=context, mutable=["energies", "intermediates"])
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], weights, atol=5e-6)
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


def test_below_64_features_a_head_the_released_code_only_averages():
    """The constant score leaves what it is made of without gradient; the default looks at its tokens."""
    x = tokens(B, T, C)

    def weights_and_gradients(module):
        @jax.jit
        def run(variables):
            y, pull, sown = jax.vjp(
                lambda variables: module.apply(variables, x, mutable=["intermediates"]), variables, has_aux=True
            )
            return sown["intermediates"]["weights"][0], pull(jnp.cos(y))[0]["params"]

        return jax.device_get(run(random_variables(module, x, seed=4)))

    mean = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    for head_dim in (16, 40):  # no feature that the network would see, and one
        released = NeuralAttention(num_heads=H, head_dim=head_dim, causal=True, as_published=True)
        weights, found = weights_and_gradients(released)
        np.testing.assert_allclose(weights, np.broadcast_to(mean, weights.shape), atol=1e-6)
        for name in ("query", "key"):
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(found[name]))
        assert np.any(found["value"]["kernel"])

    weights, found = weights_and_gradients(released.clone(as_published=False))
    assert np.abs(weights - mean).max() > 0.1
    for name in ("query", "key"):
        assert np.any(found[name]["kernel"])


DRAWN = 160


def drawn(**fields):
    """Of so many draws of networks of d' = 2, one for each of 3 heads of 64 features: the parameters, the weights of 31
    tokens, and the energies."""
    module = NeuralAttention(num_heads=3, head_dim=64, shared_network=False, **fields)
    x, rng = tokens(B, 31, C), np.random.default_rng(1)
    kernels = {name: C**-0.5 * rng.standard_normal((C, 3, 64), np.float32) for name in ("query", "key", "value")}
    params = {name: {"kernel": kernel, "bias": np.zeros((3, 64), np.float32)} for name, kernel in kernels.items()}
    params["out"] = {"kernel": np.ones((3, 64, C), np.float32), "bias": np.zeros(C, np.float32)}

    @jax.jit
    @jax.vmap
    def draw(key):
        collections = ["params", "energies", "intermediates"]
        made = nn.unbox(module.apply({"params": params}, x, rngs={"params": key}, mutable=collections)[1])
        return made["params"]["score"], made["intermediates"]["weights"][0], made["energies"]["energy"][0]

    return jax.device_get(draw(jax.random.split(jax.random.key(0), DRAWN)))


def share_of_dead(weights):
    """Of networks that give all pairs one score."""
    return np.mean(weights.std((1, 3, 4)) < 1e-6)


def test_networks_begin_alive_with_scores_of_about_unit_size():
    params, weights, energies = drawn()
    assert share_of_dead(weights) < 0.01
    assert 0.3 < energies.mean() < 2
    np.testing.assert_allclose(params["query_kernel"].std(), 64**-0.5, rtol=0.1)
    np.testing.assert_allclose(params["key_kernel"].std(), 64**-0.5, rtol=0.1)
    np.testing.assert_allclose(params["hidden_0_query_kernel"].std(), 4**-0.5, rtol=0.1)  # it reads 2 x 2 features
    np.testing.assert_allclose(params["hidden_0_key_kernel"].std(), 4**-0.5, rtol=0.1)
    np.testing.assert_allclose((params["hidden_1_kernel"] ** 2).mean(), 2 / 2, rtol=0.2)
    assert np.all(params["hidden_1_kernel"].sum(1) >= 0)
    assert not any(np.any(params[f"{name}_bias"]) for name in ("query", "key", "hidden_0", "hidden_1", "output"))


def test_the_released_initialisation_is_pytorchs_which_leaves_many_networks_dead():
    params, weights, _ = drawn(as_published=True)
    assert 8 / 48 < share_of_dead(weights) < 40 / 48
    for name, inputs in (("query", 64), ("hidden_0_key", 4), ("hidden_1", 2), ("output", 1)):
        largest = np.abs(params[f"{name}_kernel"]).max()
        assert 0.9 * inputs**-0.5 < largest <= inputs**-0.5, name
    for name, inputs in (("query", 64), ("hidden_0", 4), ("hidden_1", 2), ("output", 1)):
        largest = np.abs(params[f"{name}_bias"]).max()
        assert 0.9 * inputs**-0.5 < largest <= inputs**-0.5, name


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


def test_features_of_keys_are_kept_in_float32_when_the_computation_is_in_bfloat16():
    fields = {"causal": True, "decode": True, "projection_dim": 4, "dtype": jnp.bfloat16}
    module = NeuralAttention(num_heads=H, head_dim=D, **fields)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens(B, T, C))
    assert shapes["cache"]["cached_key"].shape == (B, H, T, 4)  # what the network reads of a key, not its D features
    assert shapes["cache"]["cached_key"].dtype == jnp.float32
    assert shapes["cache"]["cached_value"].dtype == jnp.bfloat16

    network = ScoreNetwork(projection_dim=4, hidden_dims=(4, 2), shared=True, as_published=False)
    q, k = (np.asarray(tokens(B, H, T, D, seed=seed)).astype(jnp.bfloat16) for seed in range(2))
    rng, made = np.random.default_rng(0), calls.shapes(network, q, k)
    rounded = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(jnp.bfloat16).astype(np.float32), made)
    found, exact = (
        calls.apply(network, rounded, *(x.astype(kind) for x in (q, k))) for kind in (jnp.bfloat16, jnp.float32)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, exact)


def test_nothing_as_large_as_the_matrix_of_pairs_is_built():
    length, heads = 4096, 2
    module = NeuralAttention(num_heads=heads, head_dim=16, causal=True, projection_dim=4)
    x = jax.ShapeDtypeStruct((1, length, 32), jnp.float32)
    variables = calls.shapes(module, x)

    def largest(module):
        train = jax.grad(lambda variables, x: module.apply(variables, x).sum(), argnums=(0, 1))
        return calls.largest_array(train, variables, x)

    matrix = heads * length**2
    assert largest(module) <= matrix / 16
    assert largest(module.clone(implementation="dense")) >= matrix


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
    ("fields", "queries", "keys"),
    [
        ({}, 64, 64),
        ({"causal": True, "projection_dim": 8}, 32, 96),
        ({"use_bias": False, "shared_network": False, "hidden_dims": (5, 4, 3)}, 32, 96),
        ({"hidden_dims": (6,), "rotary": True}, 32, 96),
    ],
)
def test_cost_is_what_xla_counts_on_the_dense_path(fields, queries, keys):
    module = NeuralAttention(num_heads=4, implementation="dense", **fields)
    # The program's operations. Of what is compiled only the traffic is compared: XLA fuses some of these scores, not
    # others, into both the maximum and the exponentials, and computes them twice.
    lowered, variables = calls.lowered(module, queries, keys, width=64)
    cost = module.cost(queries, keys, width=64, batch=2)
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
