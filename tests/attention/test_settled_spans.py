"""Frozen spans and waves: the same outputs from the same parameters, by less work; nothing about spans learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import AdaptiveSpanAttention
from jattn.attention.mechanism import mechanism
from jattn.attention.settled_spans import ByReach, Within
from jattn.core import Causal, SoftSpan
from jattn.errors import UserError
from jattn.models import LanguageModel, freeze_spans
from tests import calls

B, H, D, T, C = 2, 3, 5, 211, 13
SETTLED = {"span_logit": jnp.asarray([-6.0, 3.0, 1.0])}  # spans of 0.2, 61 and 47 tokens: the last two together
WAVE = {"period_logit": jnp.asarray([0.3, 2.0, -1.0]), "ratio_logit": jnp.asarray([-1.0, -8.0, -8.0])}


def trained(**fields):
    """A layer, parameters of spans apart, and tokens."""
    module = AdaptiveSpanAttention(H, head_dim=D, max_span=64, softness=4, **fields)
    x = np.random.default_rng(0).standard_normal((B, T, C), np.float32)
    params = calls.random_variables(module, x)["params"]
    return module, params | SETTLED | (WAVE if module.periodic else {}), x


# Causal layers with a wave are decoded below, and make up a model.
@pytest.mark.parametrize("fields", [{"causal": True}, {"causal": False, "periodic": True}], ids=str)
def test_outputs_reports_and_other_gradients_stay_and_spans_no_longer_learn(fields):
    module, params, x = trained(**fields)
    mask = np.arange(T) < np.asarray([[T], [150]])

    def run(module):
        def loss(params, x):
            y, sown = module.apply({"params": params}, x, jnp.asarray(mask), mutable=["losses", "intermediates"])
            reports = (jax.tree.leaves(sown["intermediates"][name]) for name in ("statistics", "weights"))
            return (y[mask] ** 2).mean(), (y, jax.tree.leaves(sown.get("losses")), *reports)

        return jax.device_get(jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x))

    (expected, expected_x), (y, terms, *reports) = run(module.clone(implementation="dense"))
    (found, found_x), (frozen_y, frozen_terms, *frozen_reports) = run(freeze_spans(module, params))
    np.testing.assert_allclose(frozen_y[mask], y[mask], atol=1e-5)
    np.testing.assert_allclose(found_x, expected_x, atol=1e-5)
    for name in ("query", "key", "value", "out"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[name], expected[name])
    for name in set(found) - {"query", "key", "value", "out"}:
        assert np.abs(expected[name]).max() > 0
        np.testing.assert_array_equal(found[name], 0.0)
    assert terms
    assert not frozen_terms
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), frozen_reports, reports)


def test_distances_are_those_of_the_equation():
    module, params, _ = trained(causal=True)
    spans = 64 / (1 + np.exp(-SETTLED["span_logit"]))
    ends = [int(np.floor(span + 4 - 1e-5)) for span in spans]
    assert freeze_spans(module, params).distances == tuple(tuple(range(end + 1)) for end in ends)


def test_a_wave_leaves_stripes():
    module, params, _ = trained(causal=True, periodic=True)
    own = freeze_spans(module, params).distances[1]
    period = 2 + 6 / (1 + np.exp(-2.0))
    assert len(own) < 0.2 * (max(own) + 1)
    assert max(np.abs((np.asarray(own) / period + 0.5) % 1 - 0.5)) * period <= 0.75  # next to multiples of the period


@pytest.mark.parametrize("fields", [{}, {"periodic": True}], ids=str)
def test_decoded_tokens_are_those_of_one_pass(fields):
    module, params, x = trained(causal=True, rotary=True, **fields)
    decoder = freeze_spans(module, params).clone(decode=True)
    empty = calls.empty_cache(decoder, x)

    @jax.jit
    def decoded(mask):
        def step(cache, token):
            x, real = token
            variables = {"params": params, "cache": cache}
            y, updated = decoder.apply(variables, x[:, None], real[:, None], mutable=["cache"])
            return updated["cache"], y[:, 0]

        return jax.lax.scan(step, empty, (x.swapaxes(0, 1), mask.T))[1]

    for padding in (0, 7):
        mask = np.arange(T) >= np.asarray([[0], [padding]])
        expected = calls.apply(module.clone(implementation="dense"), {"params": params}, x, mask)
        np.testing.assert_allclose(np.asarray(decoded(mask)).swapaxes(0, 1)[mask], expected[mask], atol=1e-5)


def test_keys_are_gathered_where_they_are_few():
    groups = ByReach((tuple(range(9)), (0, 30, 60), tuple(range(31)), tuple(range(8)), ())).groups()
    assert [group.heads for group in groups] == [(1, 2), (0, 3), (4,)]
    assert [group.gathers for group in groups] == [False, False, False]
    assert ByReach(((0, 30, 60), (0, 31))).groups()[0].gathers


def test_heads_of_other_reach_are_computed_in_narrower_bands():
    module, params, x = trained(causal=True)
    text = jax.jit(freeze_spans(module, params).apply).lower({"params": params}, x).as_text()
    for reach in (4, 64):
        assert f"x32x{32 + reach}xf32>" in text
    assert f"x{T}x{T}x" not in text


def test_within_is_out_of_sight_elsewhere():
    bias = Causal() + Within.of(SoftSpan(jnp.asarray([9.0, 9.0]), 4.0), ((0, 3), (2,)))
    assert bias.reach() == (0, 3)
    seen = np.asarray(jax.jit(lambda lag: bias(lag) > -jnp.inf)(np.arange(-5, 6)))
    assert [(row.nonzero()[0] - 5).tolist() for row in seen] == [[0, 3], [2]]


def test_a_model_is_frozen_layer_by_layer():
    layers = mechanism("adaptive_span", {"max_span": 32, "softness": 4, "periodic": True}), mechanism("softmax", {})
    model = LanguageModel(vocab_size=11, width=16, depth=3, num_heads=2, attention=(*layers, layers[0]))
    model = model.clone(implementation="dense")  # layers are what matters here, not how they are computed
    inputs = np.random.default_rng(1).integers(0, 11, (2, 64), np.int32)
    params = calls.random_variables(model, inputs)["params"]
    params["block_2"]["attention"]["span_logit"] = jnp.asarray([-3.0, -1.0])
    frozen = freeze_spans(model, params)
    distances = [dict(layer.options).get("distances") for layer in frozen.attention]
    assert distances[1] is None
    assert max(map(max, distances[0])) > max(map(max, distances[2]))
    assert hash(frozen) != hash(model)
    found, expected = (calls.apply(model, {"params": params}, inputs) for model in (frozen, model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_cannot_be_frozen_is_refused():
    module, params, _ = trained()
    with pytest.raises(UserError, match=r"outside of jax\.jit"):
        jax.jit(lambda params: freeze_spans(module, params).distances[0][0])(params)
    model = LanguageModel(vocab_size=11, width=8, depth=1, num_heads=2)
    with pytest.raises(UserError, match="this one has none"):
        freeze_spans(model, {})


@pytest.mark.parametrize(
    ("distances", "says"),
    [(((0,), (0,)), "of 2 heads"), (((0,), (0,), (2, 1)), "ascend"), (((-1,), (), ()), "least 0")],
)
def test_impossible_distances_are_refused(distances, says):
    with pytest.raises(UserError, match=says):
        AdaptiveSpanAttention(3, max_span=4, distances=distances)
