"""Natural attention against its equation in NumPy float64: outputs, energies, and what as_published changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jattn.attention import Attention, NaturalAttention
from jattn.attention.mechanism import mechanism
from jattn.attention.natural import Released
from jattn.errors import UserError
from jattn.optim import attention_informed
from jattn.types import Array
from tests import calls
from tests.attention.test_softmax import softmax, tokens
from tests.calls import random_variables

B, H, D, T, S, C = 2, 3, 5, 7, 11, 13


def scores_and_values(params, x, context):
    """Scores B H T S, values B H S D."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def project(name, tokens):
        heads = np.einsum("btc,chd->bhtd", np.asarray(tokens, np.float64), params[name]["kernel"])
        return heads + params[name]["bias"][:, None]

    q, k, v = project("query", x), project("key", context), project("value", context)
    return np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(D), v


def merged(params, weights, values, head_mask):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["out"])
    out = np.einsum("h,bhts,bhsd->bhtd", np.asarray(head_mask, np.float64), weights, values)
    return np.einsum("bhtd,hdc->btc", out, params["kernel"]) + params["bias"]


def energies(scores, pairs):
    """The three statistics of the scores of these pairs (B H T S)."""
    counts = pairs.sum(-1)
    means = np.where(pairs, scores, 0).sum(-1) / np.maximum(counts, 1)
    return {
        "mean_absolute": np.abs(scores[pairs]).mean(),
        "root_mean_square": np.sqrt(np.square(scores[pairs]).mean()),
        "standard_deviation": np.sqrt(np.square((scores - means[..., None])[pairs]).mean()),
    }


CALLS = {
    "plain": ({}, None, False),
    "causal, one head less": ({"causal": True, "head_mask": (1, 0, 0.5)}, None, False),
    "padding": ({}, "padding", False),
    "causal segments": ({"causal": True}, "segments", False),
    "context": ({"head_mask": (2, 1, -1)}, "padding", True),
}


def arguments(call, **fields):
    """Module, variables, x, mask, context, allowed pairs and pairs that count (B H T S)."""
    own, kind, crossed = CALLS[call]
    module = NaturalAttention(H, head_dim=D, **own, **fields)
    x, context = tokens(B, T, C), tokens(B, S, C, seed=1) if crossed else None
    keys = S if crossed else T
    mask, allowed, real = None, np.ones((B, T, keys), bool), np.ones((B, T), bool)
    if kind == "padding":
        mask = np.arange(keys) != np.array([[0], [3]])
        allowed = allowed & mask[:, None]
    if kind == "segments":
        mask = np.array([[3, 3, 3, 5, 5, 0, 0], [0, 2, 2, 1, 1, 1, 2]], np.int32)
        allowed = (mask[:, :, None] == mask[:, None]) & (mask != 0)[:, None]
    if module.causal:
        allowed = allowed & np.tril(np.ones((T, keys), bool))
    if mask is not None and not crossed:
        real = mask != 0
    shape = (B, H, T, keys)
    allowed, real = np.broadcast_to(allowed[:, None], shape), np.broadcast_to(real[:, None, :, None], shape)
    variables = random_variables(module, x, context)
    return module, variables, x, None if mask is None else jnp.asarray(mask), context, allowed, allowed & real


def called(module, variables, x, mask=None, **options):
    """The output and the energy that is sown."""
    y, sown = calls.apply(module, variables, x, mask, mutable=["energies"], **options)
    (energy,) = sown["energies"]["energy"]
    return y, energy


# Each statistic where pairs are hidden; the mean magnitude of those of padding and of segments is below.
@pytest.mark.parametrize(
    ("call", "statistic"),
    [
        ("plain", "standard_deviation"),
        ("causal, one head less", "root_mean_square"),
        ("padding", "standard_deviation"),
        ("causal segments", "standard_deviation"),
        ("causal segments", "root_mean_square"),
        ("context", "mean_absolute"),
    ],
)
def test_output_weights_and_energy_are_those_of_the_equation(call, statistic):
    module, variables, x, mask, context, allowed, pairs = arguments(call, energy_statistic=statistic)
    scores, values = scores_and_values(variables["params"], x, x if context is None else context)
    weights = softmax(np.where(allowed, scores, -np.inf))
    y, sown = calls.apply(module, variables, x, mask, context=context, mutable=["energies", "intermediates"])
    expected = merged(variables["params"], weights, values, module.head_mask or (1, 1, 1))
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(sown["energies"]["energy"], [energies(scores, pairs)[statistic]], rtol=1e-5)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], weights, atol=2e-6)


def test_only_the_standard_deviation_stays_when_scores_are_shifted():
    """A bias of the keys shifts all scores of a query by the same, which the output does not see."""
    x = tokens(B, T, C)
    for statistic, moves in (("mean_absolute", True), ("root_mean_square", True), ("standard_deviation", False)):
        module = NaturalAttention(H, head_dim=D, energy_statistic=statistic)
        params = random_variables(module, x)["params"]
        shifted = params | {"key": params["key"] | {"bias": params["key"]["bias"] + 3.0}}
        (y, energy), (same, other) = (called(module, {"params": p}, x) for p in (params, shifted))
        np.testing.assert_allclose(y, same, atol=2e-5)
        assert (abs(float(other / energy) - 1) > 0.05) == moves, statistic


def factor(energy):
    scaled, _ = attention_informed(0.1).update({"of": jnp.ones(())}, optax.EmptyState(), energies={"energy": (energy,)})
    return float(scaled["of"])


@pytest.mark.parametrize(
    ("call", "mask_values"), [("padding", [-1e9]), ("causal segments", [-1e4, -1e9, float("-inf")])]
)
def test_published_energies_have_what_hides_pairs_and_the_default_ones_do_not(call, mask_values):
    module, variables, x, mask, _, allowed, pairs = arguments(call, mask_value=mask_values[0])
    scores, values = scores_and_values(variables["params"], x, x)
    y, energy = called(module, variables, x, mask)
    own = energies(scores, pairs)["mean_absolute"]
    np.testing.assert_allclose(energy, own, rtol=1e-5)
    assert factor(energy) == pytest.approx(1 + np.tanh(0.1 * own), rel=1e-6)
    assert own < 5

    # A query without a key: zeros by default, the softmax of its scores as published.
    empty = ~allowed.any(-1)
    weights = softmax(np.where(allowed | empty[..., None], scores, -np.inf))
    expected = merged(variables["params"], weights, values, (1, 1, 1))
    for value in mask_values:
        published, energy = called(module.clone(as_published=True, mask_value=value), variables, x, mask)
        np.testing.assert_allclose(energy, np.abs(scores + np.where(allowed, 0, value)).mean(), rtol=1e-5)
        assert factor(energy) == 2.0
        np.testing.assert_allclose(published, expected, atol=2e-5, rtol=1e-4)
    empty = empty[:, 0]
    np.testing.assert_allclose(np.asarray(y)[~empty], expected[~empty], atol=2e-5, rtol=1e-4)
    assert empty.any() == (call == "causal segments")
    for row in np.asarray(y)[empty]:
        np.testing.assert_array_equal(row, variables["params"]["out"]["bias"])


def test_nothing_hidden_is_nothing_changed_by_as_published():
    module, variables, x, *_ = arguments("plain")
    for found, expected in zip(
        called(module.clone(as_published=True), variables, x), called(module, variables, x), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(T, T + 4), (B, 1, 1, T + 4), (1, H, T, T + 4)])
def test_arguments_of_the_released_class(shape):
    """Any array is added to the scores; past keys and values go before those of x; a head mask multiplies."""
    module = NaturalAttention(H, head_dim=D, as_published=True)
    x = tokens(B, T, C)
    variables = random_variables(module, x)
    added = np.asarray(tokens(*shape, seed=2))
    added = np.where(np.random.default_rng(3).random(shape) < 0.3, -1e9, added)
    added[..., -1, :] = -1e9  # all pairs of the last query, or, where queries share a row, of each
    past, head_mask = (tokens(B, H, 4, D, seed=4), tokens(B, H, 4, D, seed=5)), jnp.asarray([1.0, 0.0, -2.0])
    released = Released(jnp.asarray(added, jnp.float32), head_mask[None, :, None, None], past)

    scores, values = scores_and_values(variables["params"], x, x)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    q = np.einsum("btc,chd->bhtd", np.asarray(x, np.float64), params["query"]["kernel"])
    q = q + params["query"]["bias"][:, None]
    scores = np.concatenate([np.einsum("bhtd,bhsd->bhts", q, np.asarray(past[0], np.float64)) / np.sqrt(D), scores], -1)
    values = np.concatenate([np.asarray(past[1]), values], 2)
    total = scores + np.asarray(released.additive_mask, np.float64)
    y, energy = called(module, variables, x, released=released)
    np.testing.assert_allclose(y, merged(variables["params"], softmax(total), values, head_mask), atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(energy, np.abs(total).mean(), rtol=1e-5)


def test_gradients_where_all_pairs_of_a_query_are_hidden_are_those_of_the_softmax():
    """At -1e9 the normaliser has no digits left: the mask is shifted before."""
    module = NaturalAttention(H, head_dim=D, as_published=True)
    x, cotangent = tokens(B, T, C), tokens(B, T, C, seed=1)
    variables = random_variables(module, x)
    hidden = jnp.where(jnp.arange(T)[:, None] == 2, -1e9, 0.0)

    def gradient(additive_mask, **fields):
        def loss(variables):
            y = module.clone(**fields).apply(variables, x, released=Released(additive_mask))
            return jnp.sum(y * cotangent)

        return jax.jit(jax.grad(loss))(variables)

    expected = gradient(jnp.zeros((T, T)), implementation="dense")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4),
        gradient(jnp.broadcast_to(hidden, (T, T))),
        expected,
    )


class Pair(Attention):
    """A mechanism that has another one as a part."""

    def setup(self):
        self.part = NaturalAttention(self.num_heads, head_dim=self.head_dim)

    def __call__(self, x: Array, mask: Array | None = None, *, context: Array | None = None) -> Array:
        return self.part(x, mask, context=context)


def test_the_energy_of_a_part_is_that_of_the_whole():
    x = tokens(B, T, C)
    module = Pair(H, head_dim=D)
    variables = random_variables(module, x)
    assert set(variables["params"]) == {"part"}
    _, energy = called(module, variables, x)
    _, expected = called(NaturalAttention(H, head_dim=D), {"params": variables["params"]["part"]}, x)
    assert energy == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head_mask": (1, 0)}, "head_mask has 2 numbers: give one for each of 3 heads"),
        ({"mask_value": 0.0}, "mask_value 0.0 hides no pair: choose a number below 0"),
        ({"mask_value": float("nan")}, "mask_value nan hides no pair"),
    ],
)
def test_what_a_user_can_get_wrong(fields, message):
    with pytest.raises(UserError, match=message):
        NaturalAttention(H, **fields)


def test_options_are_reached_by_name():
    options = {"head_mask": [1, 0, 0.5], "energy_statistic": "standard_deviation", "mask_value": -10}
    module = mechanism("natural", options).module(num_heads=H)
    assert module == NaturalAttention(H, **(options | {"head_mask": (1, 0, 0.5)}))
    with pytest.raises(UserError, match="it must be one of 'mean_absolute', 'root_mean_square', 'standard_deviation'"):
        mechanism("natural", {"energy_statistic": "mean"})


def test_arguments_of_the_released_class_are_for_as_published_without_a_mask():
    x = tokens(B, T, C)
    for module, mask in (
        (NaturalAttention(H, head_dim=D), None),
        (NaturalAttention(H, head_dim=D, as_published=True), jnp.ones((B, T), bool)),
    ):
        with pytest.raises(UserError, match="need as_published=True, and take the place of a mask"):
            module.init(jax.random.key(0), x, mask, released=Released())


def test_memory_does_not_hold_a_number_for_each_pair():
    length = 2048
    x = jax.ShapeDtypeStruct((1, length, 8), jnp.float32)
    for as_published in (False, True):
        module = NaturalAttention(1, causal=True, as_published=as_published)

        def train(variables, x, module=module):
            y, pull, sown = jax.vjp(
                lambda variables: module.apply(variables, x, mutable=["energies"]), variables, has_aux=True
            )
            return pull(y), sown

        program = jax.jit(train).lower(calls.shapes(module, x), x).compile()
        assert program.memory_analysis().temp_size_in_bytes < length**2  # a quarter of what one float32 matrix takes


@pytest.mark.parametrize(
    ("fields", "queries", "keys"),
    [({}, 64, 64), ({"causal": True, "rotary": True, "head_mask": (1, 0, 0.5, 1)}, 32, 96)],
)
def test_cost_is_what_xla_counts_on_the_dense_path(fields, queries, keys):
    module = NaturalAttention(num_heads=4, implementation="dense", **fields)
    lowered, variables = calls.lowered(module, queries, keys, width=64)
    counted = lowered.compile().cost_analysis()
    cost = module.cost(queries, keys, width=64, batch=2)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(counted["flops"], rel=0.05)
    assert cost.bytes < counted["bytes accessed"]
