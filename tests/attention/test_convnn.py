"""ConvNN attention against its equation in NumPy float64, its limits, and where it differs from the released code."""

import functools
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jattn.analysis import patterns
from jattn.attention import ConvNNAttention, SoftmaxAttention
from jattn.attention.convnn_convolution import Kind
from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from tests import calls
from tests.attention.allowed_pairs import decoded
from tests.attention.convnn_oracle import oracle

random_variables = functools.partial(calls.random_variables, spread=0.4)

B, H, D, T, S, C = 2, 3, 5, 7, 11, 13


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# Fields, candidates, what kind of mask, cross-attention. Candidates of an example; None = all tokens. Each similarity,
# convolution and mask with all tokens and with a sample, the former with and without softmax and coordinates.
CALLS = {
    "all": ({}, None, None, False),
    "more neighbours than tokens": ({"K": 9, "convolution_type": "standard", "causal": True}, None, "padding", False),
    "cosine, coordinates": (
        {"magnitude_type": "cosine", "softmax_topk_val": False, "coordinate_encoding": True},
        None,
        "padding",
        False,
    ),
    "euclidean, coordinates": (
        {"magnitude_type": "euclidean", "convolution_type": "standard", "coordinate_encoding": True},
        None,
        None,
        False,
    ),
    "inverse distances": (
        {"magnitude_type": "euclidean", "softmax_topk_val": False, "convolution_type": "depthwise-separable"},
        None,
        "pairs",
        False,
    ),
    "causal coordinates": (
        {"coordinate_encoding": True, "causal": True, "max_length": 19, "convolution_type": "depthwise-separable"},
        None,
        None,
        False,
    ),
    "given, padding": ({"sampling_type": "random", "candidates": (5, 0, 2, 6, 5)}, (0, 2, 5, 6), "padding", False),
    "given, pairs": (
        {"sampling_type": "random", "candidates": (1, 4, 6), "K": 2, "magnitude_type": "cosine"},
        (1, 4, 6),
        "pairs",
        False,
    ),
    "given, causal": (
        {"sampling_type": "random", "candidates": (1, 4, 9), "causal": True, "softmax_topk_val": False},
        (1, 4),
        None,
        False,
    ),
    "spatial, inverse distances": (
        {
            "sampling_type": "spatial",
            "num_samples": 4,
            "sample_padding": 1,
            "magnitude_type": "euclidean",
            "softmax_topk_val": False,
            "coordinate_encoding": True,
            "convolution_type": "standard",
        },
        (1, 2, 3, 5),
        None,
        False,
    ),
    "spatial, causal": (
        {"sampling_type": "spatial", "num_samples": 7, "max_length": 19, "causal": True, "coordinate_encoding": True},
        (0, 3, 6),
        None,
        False,
    ),
    "one neighbour": (
        {"sampling_type": "random", "K": 1, "candidates": (5, 2), "convolution_type": "depthwise-separable"},
        (2, 5),
        None,
        False,
    ),
    "context": ({"K": 4, "coordinate_encoding": True, "convolution_type": "standard"}, None, "padding", True),
    "context, spatial": ({"sampling_type": "spatial", "num_samples": 4}, (0, 3, 6, 10), None, True),
}


def arguments(call):
    """Module, variables, x, mask, context and allowed pairs (B, H, T, S) of a call."""
    fields, _, kind, crossed = CALLS[call]
    module = ConvNNAttention(num_heads=H, head_dim=D, **({"K": 3} | fields))
    x, context = tokens(B, T, C), tokens(B, S, C, seed=1) if crossed else None
    keys = S if crossed else T
    mask, allowed = None, np.ones((B, H, T, keys), bool)
    if kind == "padding":
        mask = np.arange(keys) != np.array([[keys - 1], [3]])
        allowed = allowed & mask[:, None, None]
    if kind == "pairs":
        mask = allowed = np.random.default_rng(5).random((B, H, T, keys)) < 0.6
    if module.causal:
        allowed = allowed & np.tril(np.ones((T, keys), bool))
    variables = random_variables(module, x, context)
    return module, variables, x, None if mask is None else jnp.asarray(mask), context, allowed


@pytest.mark.parametrize("call", CALLS)
def test_output_weights_and_energy_are_those_of_the_equation(call):
    module, variables, x, mask, context, allowed = arguments(call)
    chosen, crossed = CALLS[call][1], CALLS[call][3]
    keys = x if context is None else context
    lengths = [keys.shape[1]] * B
    if mask is not None and mask.ndim == 2:
        lengths = [int(np.flatnonzero(row)[-1]) + 1 for row in np.asarray(mask)]
    if module.causal and module.max_length:
        lengths = [module.max_length] * B
    expected = oracle(module, variables["params"], x, keys, allowed, chosen, lengths, crossed=crossed)

    y, sown = calls.apply(module, variables, x, mask, context=context, mutable=["energies", "intermediates"])
    np.testing.assert_allclose(y, expected.y, atol=5e-5, rtol=2e-4)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], expected.weights, atol=5e-5, rtol=2e-4)
    real = np.ones((B, T), bool) if mask is None or mask.ndim > 2 or crossed else np.asarray(mask)
    np.testing.assert_allclose(sown["energies"]["energy"][0], expected.energy(real), rtol=1e-4, atol=1e-6)
    rows, shares = sown["intermediates"]["statistics"][0], patterns.shares(expected.weights)
    some = shares.any(-1)
    visible = np.maximum(allowed.sum(-1), 1)
    attended = (shares >= patterns.SPARSE / visible[..., None]).sum(-1)
    for name, value in {
        "entropy": patterns.entropy(shares),
        "distance": patterns.distance(shares),
        "largest": patterns.top(shares, 1),
        "diagonal": patterns.on_diagonal(shares),
        "sparsity": np.where(some, 1 - attended / visible, 0),
    }.items():
        np.testing.assert_allclose(getattr(rows, name), value, atol=1e-4, rtol=1e-4, err_msg=name)


def pull(module, variables, x, context=None):
    """Output, and gradients with respect to parameters and x."""

    def loss(params, x):
        y = module.apply({"params": params}, x, context=context)
        return jnp.sum(y * tokens(*y.shape, seed=9)), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables["params"], x)
    return y, gradients


# A similarity has the same gradient whether tokens are sampled; distances, which are then inverted, are in both forms.
@pytest.mark.parametrize(
    ("magnitude", "sampled"), [("matmul", False), ("cosine", True), ("euclidean", False), ("euclidean", True)]
)
def test_gathered_gradients_are_those_of_the_whole_matrix(magnitude, sampled):
    fields = {"magnitude_type": magnitude, "K": 3, "head_dim": D}
    if sampled:
        fields |= {"sampling_type": "random", "candidates": (1, 4, 5, 8), "softmax_topk_val": False}
    module, x, context = ConvNNAttention(**fields), tokens(B, T, C), tokens(B, S, C, seed=1) if sampled else None
    variables = random_variables(module, x, context)
    ours, theirs = (pull(module.clone(as_published=p), variables, x, context) for p in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), ours, theirs)


@pytest.mark.parametrize("causal", [False, True])
def test_with_all_tokens_as_neighbours_it_is_softmax_attention_with_keys_and_queries_swapped(causal):
    x = tokens(B, T, C)
    ours = ConvNNAttention(num_heads=H, head_dim=D, K=T, causal=causal)
    params = random_variables(ours, x)["params"]
    params["conv"]["kernel"] = np.ones((T, D), np.float32)
    theirs = SoftmaxAttention(num_heads=H, head_dim=D, causal=causal)
    swapped = {name: params[other] for name, other in zip(("query", "key"), ("key", "query"), strict=True)}
    swapped |= {name: params[name] for name in ("value", "out")}
    (y, found), (expected, weights) = (
        calls.apply(module, {"params": params}, x, mutable=["intermediates"])
        for module, params in ((ours, params), (theirs, swapped))
    )
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    found, weights = (sown["intermediates"]["weights"][0] for sown in (found, weights))
    np.testing.assert_allclose(found, weights * D**0.5, atol=1e-5)


def tiny(**fields):
    """The call of one head of two features whose projections are identities, and its variables."""
    module = ConvNNAttention(use_bias=False, **fields)
    eye = np.eye(2, dtype=np.float32)
    params = {name: {"kernel": eye[:, None]} for name in ("query", "key", "value")}
    params |= {"out": {"kernel": eye[None]}, "conv": {"kernel": np.ones((module.K, 2), np.float32)}}
    return functools.partial(calls.apply, module, {"params": params}), params


def test_missing_neighbours_weigh_nothing():
    call, _ = tiny(K=3, causal=True, magnitude_type="euclidean")
    x = jnp.asarray([[0.0, 0.0], [3.0, 4.0]])
    # Token 0 has itself only; token 1 itself at distance 0 and token 0 at distance 5.
    far = np.exp(-5) / (1 + np.exp(-5))
    np.testing.assert_allclose(call(x), [[0, 0], [3 * (1 - far), 4 * (1 - far)]], atol=1e-6)
    np.testing.assert_array_equal(call(x, np.zeros(2, bool)), np.zeros((2, 2)))


def test_ranks_are_convolved_nearest_first():
    call, params = tiny(K=2, softmax_topk_val=False, magnitude_type="cosine")
    params["conv"]["kernel"] = jnp.asarray([[10.0, 10.0], [1.0, 1.0]])
    # Cosines: of token 0 with itself 1, with 1: 0.6, with 2: 0.
    x = jnp.asarray([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    np.testing.assert_allclose(call(x)[0], 10 * x[0] + 0.6 * x[1], rtol=1e-5)


# What the released code does, and what the default does.


def neighbourhood(module, x, t):
    """Which tokens have an influence on the output of token t."""
    variables = random_variables(module, x)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(module.apply(variables, x)[0, t])))(x)
    return np.flatnonzero(np.any(np.asarray(gradient[0]) != 0, -1)).tolist()


def test_released_heads_are_merged_across_tokens():
    x, only_itself = tokens(1, T, C), {"num_heads": H, "head_dim": D, "sampling_type": "random", "K": 1}
    assert neighbourhood(ConvNNAttention(**only_itself), x, 2) == [2]
    assert len(neighbourhood(ConvNNAttention(**only_itself, as_published=True), x, 2)) > 1  # not of one: see above


@pytest.mark.parametrize("magnitude", ["matmul", "euclidean"])
def test_released_samples_count_a_token_twice(magnitude):
    fields = {"magnitude_type": magnitude, "K": 3, "sampling_type": "random", "candidates": (0, 1, 2)}
    fields["softmax_topk_val"] = False
    # Similarities besides its own are below -0.1, distances above 1.1.
    x = jnp.asarray([[2.0, 0.0], [-2.0, 3.0], [-1.0, -4.0]])
    ours, theirs = (tiny(**fields, as_published=published)[0](x, method="weights") for published in (False, True))
    own = 1 if magnitude == "matmul" else 1 / (1 + 1e-8)
    again = -0.1 if magnitude == "matmul" else 1 / (1.1 + 1e-8)
    np.testing.assert_allclose(np.diagonal(ours[0]), [own * 2**0.5] * 3, rtol=1e-5)
    np.testing.assert_allclose(np.diagonal(theirs[0]), [(own + again) * 2**0.5] * 3, rtol=1e-5)


def test_released_distances_of_zero_have_no_gradient():
    x, fields = tokens(1, T, C), {"magnitude_type": "euclidean", "K": 3, "head_dim": D}
    params = random_variables(ConvNNAttention(**fields), x)["params"]
    params["key"] = params["query"]

    def gradient(published):
        module = ConvNNAttention(**fields, as_published=published)
        return jax.jit(jax.grad(lambda x: jnp.sum(module.apply({"params": params}, x) ** 2)))(x)

    ours = gradient(False)
    assert np.all(np.isfinite(ours))
    assert np.any(ours != 0)
    assert np.any(np.isnan(gradient(True)))


def test_released_coordinates_of_candidates_are_ranks():
    def energy(candidates, published):
        fields = {"sampling_type": "random", "candidates": candidates, "convolution_type": "standard", "K": 2}
        module = ConvNNAttention(head_dim=2, coordinate_encoding=True, as_published=published, **fields)
        variables = random_variables(module, tokens(1, T, C), spread=0)
        # With features of zero the similarity of token and candidate is the product of their coordinates.
        _, sown = calls.apply(module, variables, tokens(1, T, C), mutable=["energies"])
        return sown["energies"]["energy"][0] * 2**0.5

    places = np.linspace(-1, 1, T)
    others = [abs(places[t] * places[c]) for t in range(T) for c in (2, 3, 5) if t != c]
    np.testing.assert_allclose(energy((2, 3, 5), False), np.mean(others), rtol=1e-5)
    np.testing.assert_allclose(energy((2, 3, 5), True), np.mean(np.abs(np.outer(places, [-1, 0, 1]))), rtol=1e-5)


def test_released_depthwise_convolutions_take_no_coordinates():
    fields = {"coordinate_encoding": True, "convolution_type": "depthwise"}
    assert random_variables(ConvNNAttention(**fields), tokens(T, C))["params"]["conv"]["kernel"].shape == (9, C)
    with pytest.raises(UserError, match="the released ConvNN cannot give a depthwise convolution coordinates"):
        ConvNNAttention(**fields, as_published=True)


def test_released_random_candidates_are_drawn_in_evaluation_too():
    x = tokens(1, 37, C)

    def outputs(deterministic, **fields):
        module = ConvNNAttention(sampling_type="random", num_samples=5, head_dim=D, **fields)
        call = functools.partial(jax.jit(module.apply, static_argnames="deterministic"), random_variables(module, x))
        return [call(x, deterministic=deterministic, rngs={"sampling": jax.random.key(seed)}) for seed in (0, 0, 1)]

    one, same, other = outputs(deterministic=True)
    assert np.array_equal(one, other)
    for fields, deterministic in (({"as_published": True}, True), ({}, False)):
        one, same, other = outputs(deterministic, **fields)
        assert np.array_equal(one, same)
        assert not np.allclose(one, other)


def test_layers_draw_different_candidates_in_evaluation_and_their_weights_show_them():
    layer, x = ConvNNAttention(sampling_type="random", num_samples=3, K=3), tokens(37, C)

    class Two(nn.Module):
        def setup(self):
            self.layers = [layer.clone() for _ in range(2)]

        def __call__(self, x):
            return [each(x) for each in self.layers]

        def weights(self, x):
            return [each.weights(x) for each in self.layers]

    params = random_variables(layer, x)["params"]
    module, variables = Two(), {"params": {"layers_0": params, "layers_1": params}}
    _, sown = calls.apply(module, variables, x, mutable=["intermediates"])
    found = calls.apply(module, variables, x, method="weights")
    for i in range(2):
        np.testing.assert_array_equal(sown["intermediates"][f"layers_{i}"]["weights"][0], found[i])
    hit = [np.flatnonzero(np.sum(np.asarray(w[0]) != 0, 0) > 1) for w in found]
    assert hit[0].tolist() != hit[1].tolist()


# Everything else.


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling_type": "random", "num_samples": 17, "coordinate_encoding": True, "max_length": 79},
        {"sampling_type": "spatial", "num_samples": 13, "max_length": 79, "magnitude_type": "euclidean"},
        {"sampling_type": "random", "num_samples": 17},
    ],
)
def test_sixty_four_decoded_tokens_are_those_of_the_full_pass(fields):
    module = ConvNNAttention(causal=True, K=4, head_dim=D, **fields)
    x = tokens(1, 64, C)
    variables = random_variables(module, x)
    full = calls.apply(module, variables, x)
    np.testing.assert_allclose(decoded(module, variables, x), full, atol=2e-5, rtol=1e-4)


def test_causal_samples_do_not_depend_on_the_length_of_the_call():
    fields = {"causal": True, "K": 3, "max_length": 41, "head_dim": D, "coordinate_encoding": True}
    for kind in ("random", "spatial"):
        module = ConvNNAttention(sampling_type=kind, num_samples=11, **fields)
        x = tokens(1, 23, C)
        variables = random_variables(module, x)
        long, short = calls.apply(module, variables, x), calls.apply(module, variables, x[:, :T])
        np.testing.assert_allclose(long[:, :T], short, atol=2e-5)


def test_a_call_beyond_max_length_is_refused_where_it_matters():
    module = ConvNNAttention(causal=True, sampling_type="spatial", num_samples=3, max_length=5)
    with pytest.raises(UserError, match="7 tokens are more than max_length 5"):
        calls.shapes(module, tokens(T, C))
    for harmless in ({"sampling_type": "all"}, {"causal": False}):
        calls.shapes(module.clone(**harmless), tokens(T, C))


def test_one_head_unless_the_option_says_more():
    assert mechanism("convnn", {}).module(num_heads=4).num_heads == 1
    assert mechanism("convnn", {"num_heads": 2}).module(num_heads=4).num_heads == 2
    assert mechanism("softmax", {}).module(num_heads=4).num_heads == 4


def test_initial_convolutions_are_the_sources():
    @jax.jit
    def kernels(x):
        modules = {kind: ConvNNAttention(K=101, head_dim=11, convolution_type=kind) for kind in get_args(Kind)}
        made = {kind: nn.unbox(module.init(jax.random.key(0), x)) for kind, module in modules.items()}
        return {kind: variables["params"]["conv"] for kind, variables in made.items()}

    found = jax.device_get(kernels(tokens(T, C)))
    assert np.all(found["depthwise"]["kernel"] == 1)
    for kind, name, inputs in (
        ("standard", "kernel", 11 * 101),
        ("depthwise-separable", "kernel", 101),
        ("depthwise-separable", "pointwise", 11),
    ):
        values = found[kind][name]
        bound = inputs**-0.5
        assert np.all(np.abs(values) <= bound)
        np.testing.assert_allclose(np.max(np.abs(values)), bound, rtol=0.05)
        np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.15)


def test_dropout_is_of_the_convolutions_output():
    call, _ = tiny(K=2, sampling_type="random", candidates=(0,), softmax_topk_val=False, dropout_rate=0.5)
    x = jnp.asarray(np.arange(512)[:, None] > 0, jnp.float32) * np.ones((1, 2), np.float32)
    y = call(x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    y = np.asarray(y)[1:]
    assert set(np.unique(y).tolist()) == {0.0, 2.0}
    np.testing.assert_allclose(y.mean(), 1.0, atol=5 / 1022**0.5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"K": 0}, "K is 0: a token needs at least 1 neighbour"),
        (
            {"sampling_type": "spatial", "num_samples": -1},
            "num_samples is -1: sampling_type='spatial' needs at least 1",
        ),
        ({"sampling_type": "random", "num_samples": 0}, "num_samples is 0: sampling_type='random' needs at least 1"),
        ({"sampling_type": "spatial", "num_samples": -1, "as_published": True}, "num_samples is -1"),
        ({"sample_padding": -1}, "sample_padding is -1"),
        ({"candidates": (1,)}, "candidates are those of a sample: set sampling_type"),
        ({"sampling_type": "random", "candidates": (1, -1)}, r"candidates are \(1, -1\): give at least one position"),
        ({"causal": True, "as_published": True}, "the released ConvNN has no causal form"),
        ({"implementation": "dense"}, "no choice of implementation"),
    ],
)
def test_impossible_options_are_refused_when_built(fields, says):
    with pytest.raises(UserError, match=says):
        ConvNNAttention(**fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"sampling_type": "some"}, "unknown sampling_type 'some'"),
        ({"magnitude_type": "dot"}, "unknown magnitude_type 'dot'"),
        ({"convolution_type": "depthwise_separable"}, "did you mean 'depthwise-separable'"),
    ],
)
def test_unknown_kinds_are_refused_without_type_checks_too(fields, says):
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(UserError, match=says):
            ConvNNAttention(**fields)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# Samples of more than nearest.FEW keys: how the best of fewer are picked depends on the platform and is not counted.
COSTS = [
    ({}, 64, 64),
    ({"causal": True, "rotary": True}, 32, 96),
    ({"magnitude_type": "cosine", "use_bias": False}, 32, 96),
    ({"magnitude_type": "euclidean", "convolution_type": "standard", "K": 3}, 32, 96),
    ({"sampling_type": "spatial", "num_samples": 48, "convolution_type": "depthwise-separable"}, 64, 64),
    ({"sampling_type": "spatial", "num_samples": 48, "convolution_type": "depthwise-separable"}, 32, 96),
    ({"sampling_type": "random", "num_samples": 48, "causal": True, "softmax_topk_val": False}, 64, 64),
    (
        {"coordinate_encoding": True, "magnitude_type": "cosine", "convolution_type": "standard", "num_heads": 1},
        32,
        96,
    ),
]


@pytest.mark.parametrize(("fields", "queries", "keys"), COSTS)
def test_cost_is_what_xla_counts(fields, queries, keys):
    module = ConvNNAttention(**({"num_heads": 4} | fields))
    lowered, variables = calls.lowered(module, queries, keys, width=64)
    counted = lowered.compile().cost_analysis()
    cost = module.cost(queries, keys, width=64, batch=2)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(counted["flops"], rel=0.05)
    assert cost.bytes < counted["bytes accessed"]


@pytest.mark.parametrize("fields", [{"causal": True}, {"magnitude_type": "euclidean", "convolution_type": "standard"}])
def test_no_matrix_is_built(fields):
    length = 2048
    module = ConvNNAttention(K=5, head_dim=D, **fields)
    x = jax.ShapeDtypeStruct((1, length, C), jnp.float32)
    step = jax.grad(lambda variables, x: jnp.sum(module.apply(variables, x)), (0, 1))
    assert calls.largest_array(step, calls.shapes(module, x), x) <= 128 * length  # one block of scores
