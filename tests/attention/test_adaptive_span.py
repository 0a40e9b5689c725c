"""Adaptive span against its equation in NumPy float64, the released code's recorded calls, and softmax attention."""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import AdaptiveSpanAttention, SoftmaxAttention
from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from jattn.interop.original import load
from jattn.interop.original.adaptive_span import regularizer
from jattn.verify import read
from tests import calls
from tests.core.span_masks import log_mask, span_mask, triangle_mask

random_variables = functools.partial(calls.random_variables, spread=0.4)

B, H, D, T, C = 2, 3, 5, 11, 13
GOLDEN = sorted(path for path in (pathlib.Path(__file__).parents[1] / "golden").glob("adaptive_*.npz"))


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 2))
def spans_of(module, params, length):
    return module.spans(params, length)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def learned(module, params):
    """z, P and rho of the heads, in float64."""
    longest = module.max_length if module.max_span is None else module.max_span
    span = longest * sigmoid(params["span_logit"])
    if not module.periodic:
        return span, None, None
    period = module.period_min + (module.period_max - module.period_min) * sigmoid(params["period_logit"])
    return span, period, sigmoid(params["ratio_logit"]) / 2 - 0.25


def oracle(module, params, x, allowed):
    """The equation: output (B, T, C), weights (B, H, T, S) and the loss term. allowed: bool (B, T, S)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    q, k, v = (
        np.einsum("btc,chd->bhtd", np.asarray(x, np.float64), params[name]["kernel"])
        + (params[name]["bias"][:, None] if module.use_bias else 0)
        for name in ("query", "key", "value")
    )
    distance = np.abs(np.arange(x.shape[1])[:, None] - np.arange(x.shape[1]))
    span, period, ratio = learned(module, params)
    masks, share = [span_mask(span, module.softness, distance)], 1.0
    term = span
    if module.periodic:
        masks.append(triangle_mask(period, ratio, module.harmonics, distance))
        amplitude, offset = period / 4, period * ratio
        share = 1 / period + 2 * ratio + 1 / 2
        share = np.where(share < 1, share, 1 + (1 / 2 + offset - amplitude))
        term = (span + module.softness) * share
    logits = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(q.shape[-1]) + log_mask(*masks)
    numerators = np.where(allowed[:, None], np.exp(logits), 0)
    weights = numerators / np.maximum(numerators.sum(-1, keepdims=True), 1e-300)
    y = np.einsum("bhts,bhsd,hdc->btc", weights, v, params["out"]["kernel"])
    return y + (params["out"]["bias"] if module.use_bias else 0), weights, module.span_reg * term.mean()


WAVE = {"periodic": True, "softness": 2.5}
CALLS = {
    "causal": ({"causal": True, "max_span": 8, "softness": 3}, None),
    "sequences longer than any span": ({"max_span": 2, "softness": 1, "causal": True}, None),
    "two-sided, length of the model": ({"max_length": 7, "softness": 2, "use_bias": False}, None),
    "causal wave": ({"max_span": 16, "causal": True, **WAVE}, None),
    "two-sided wave, periods and harmonics": (
        {"max_span": 16, "period_min": 3, "period_max": 21.5, "harmonics": 7, "span_reg": 2, **WAVE},
        None,
    ),
    "one harmonic": ({"max_span": 16, "causal": True, "harmonics": 2, **WAVE}, None),
    "padding": ({"max_span": 4, "softness": 2, "causal": True}, "padding"),
    "segments": ({"max_span": 9, "causal": True, **WAVE}, "segments"),
    "pairs": ({"max_span": 9, **WAVE}, "pairs"),
}


def arguments(call):
    """Module, variables, x, mask and allowed pairs of a call."""
    fields, kind = CALLS[call]
    module = AdaptiveSpanAttention(H, head_dim=D, **fields)
    x, mask, allowed = tokens(B, T, C), None, np.ones((B, T, T), bool)
    if kind == "padding":
        mask = np.arange(T) != np.array([[0], [3]])  # the first query of example 0 has no key
        allowed = allowed & mask[:, None]
    if kind == "segments":
        mask = np.array([[3, 3, 3, 5, 5, 5, 5, 1, 1, 0, 0], [0, 2, 2, 2, 2, 2, 1, 1, 1, 1, 7]], np.int32)
        allowed = (mask[:, :, None] == mask[:, None]) & (mask != 0)[:, None]
    if kind == "pairs":
        mask = allowed = np.random.default_rng(1).random((B, T, T)) < 0.6
    if module.causal:
        allowed = allowed & np.tril(np.ones((T, T), bool))
    return module, random_variables(module, x), x, None if mask is None else jnp.asarray(mask), allowed


@pytest.mark.parametrize("call", CALLS)
def test_output_weights_spans_and_loss_term_are_those_of_the_equation(call):
    module, variables, x, mask, allowed = arguments(call)
    y, weights, term = oracle(module, variables["params"], x, allowed)
    assert np.mean(weights == 0) > np.mean(~allowed), "spans and waves mask nothing here"

    found, sown = calls.apply(module, variables, x, mask, mutable=["losses", "intermediates"])
    (spans,), (found_weights,) = sown["intermediates"]["spans"], sown["intermediates"]["weights"]
    np.testing.assert_allclose(found, y, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(found_weights, weights, atol=2e-5)
    np.testing.assert_allclose(sown["losses"]["span"][0], term, rtol=1e-5)

    z, period, _ = learned(module, variables["params"])
    np.testing.assert_allclose(spans.reach, z + module.softness, rtol=1e-6)
    longest = module.max_length if module.max_span is None else module.max_span
    np.testing.assert_array_equal(spans.span, np.floor(np.minimum(z + module.softness, longest)))
    assert spans.saved == 0  # one block
    # What is said of keys does not know of masks.
    everything = np.tril(np.ones((B, T, T), bool)) if module.causal else np.ones((B, T, T), bool)
    keys, without_wave = (
        (oracle(each, variables["params"], x, everything)[1][0] > 0).sum((1, 2))
        for each in (module, module.clone(periodic=False))
    )
    np.testing.assert_allclose(spans.keys, keys / T, rtol=1e-6)
    np.testing.assert_allclose(spans.removed, 1 - keys / without_wave, atol=1e-6)
    if module.periodic:
        np.testing.assert_allclose(spans.period, period, rtol=1e-6)
        assert np.all(np.asarray(spans.removed) > 0)
    else:
        assert np.isnan(spans.period).all()


def random_release(seed):
    """Settings of the released class, and parameters under its names."""
    rng = np.random.default_rng(seed)
    heads, per_head, bias, wave = rng.integers(1, 5), rng.integers(2, 7), bool(seed % 2), bool(seed // 2 % 2)
    width = int(heads * per_head)
    settings = {
        "cls": "AdaptiveCausalAttention",
        "n_head": int(heads),
        "n_embd": width,
        "block_size_max_span": int(rng.integers(3, 90)),
        "softness_R": int(rng.integers(1, 40)),
        "span_reg": float(rng.uniform(0, 1)),
        "bias": bias,
        "use_triangle_wave_masking": wave,
        "period_min": float(rng.uniform(0.5, 3)),
        "period_max": float(rng.uniform(3.5, 29)),
        "max_harmonics": int(rng.integers(1, 12)),
    }
    shapes = {"span_params": (heads,), "c_attn.weight": (3 * width, width), "c_proj.weight": (width, width)}
    if bias:
        shapes |= {"c_attn.bias": (3 * width,), "c_proj.bias": (width,)}
    if wave:
        shapes |= {"triangle_wave.period_weight": (heads,), "triangle_wave.ratio_weight": (heads,)}
    scale = {"span_params": 2, "triangle_wave.period_weight": 2, "triangle_wave.ratio_weight": 2}
    params = {name: np.float32(scale.get(name, 0.3) * rng.standard_normal(shape)) for name, shape in shapes.items()}
    return settings, params, tokens(B, int(rng.integers(5, 50)), width, seed=seed)


@pytest.mark.parametrize("seed", range(8))
def test_released_weights_give_what_the_released_code_computes(seed):
    """Its text in NumPy: one Linear whose features are queries, keys, values, each of them heads by features."""
    settings, params, x = random_release(seed)
    mechanism = "adaptive_span_triangle" if settings["use_triangle_wave_masking"] else "adaptive_span"
    module, variables = load(mechanism, settings, params)
    assert module.as_published
    assert module.causal

    heads, length = settings["n_head"], x.shape[1]
    features = np.float64(x) @ np.float64(params["c_attn.weight"]).T + params.get("c_attn.bias", 0.0)
    q, k, v = (part.reshape(B, length, heads, -1).swapaxes(1, 2) for part in np.split(features, 3, axis=-1))
    lag = np.arange(length)[:, None] - np.arange(length)
    span, period, ratio = learned(module, variables["params"])
    masks = [np.where(lag >= 0, span_mask(span, settings["softness_R"], np.maximum(lag, 0)), 0.0)]
    if period is not None:
        masks.append(triangle_mask(period, ratio, settings["max_harmonics"], np.maximum(lag, 0)))
    logits = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1]) + log_mask(*masks)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = (weights @ v).swapaxes(1, 2).reshape(x.shape) @ np.float64(params["c_proj.weight"]).T
    # With and without biases and waves, by both ways.
    found = calls.apply(module.clone(implementation=None if seed < 4 else "dense"), variables, x)
    np.testing.assert_allclose(found, y + params.get("c_proj.bias", 0.0), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_recorded_reports_are_ours(path):
    """Span, period and loss term of the recorded calls, and the masks in the weights."""
    recorded = read(path)
    module, variables = load(recorded.mechanism, recorded.settings, recorded.group("param"))
    x, aux = jnp.asarray(recorded.arrays["in/x"]), recorded.group("aux")
    length = x.shape[1]

    @jax.jit
    def reports(variables, x):
        weights = module.apply(variables, x, method="weights")
        return regularizer(module, variables, {"x": x}), module.spans(variables["params"], length), weights

    term, spans, weights = reports(variables, x)
    assert term == pytest.approx(recorded.arrays["reg"].item(), rel=1e-5)
    np.testing.assert_allclose(spans.reach, aux["spans"] + module.softness, rtol=1e-6)  # z is recorded
    np.testing.assert_array_equal(spans.span, np.floor(np.clip(aux["spans"] + module.softness, 0, module.max_span)))
    masks = [aux[name] for name in ("span_mask", "triangle_mask") if name in aux]
    if "period" in aux:
        np.testing.assert_allclose(spans.period, aux["period"], rtol=1e-6)
    seen = (np.minimum.reduce(masks) > 1e-6) & np.tri(length, dtype=bool)
    np.testing.assert_allclose(spans.keys, seen.sum((1, 2)) / length, rtol=1e-5)
    np.testing.assert_array_equal(np.all(np.asarray(weights) > 0, axis=0), seen)


def test_there_are_recorded_reports_of_both_kinds():
    assert {"period" in read(path).group("aux") for path in GOLDEN} == {False, True}


@pytest.mark.parametrize("causal", [True, False])
def test_a_span_far_beyond_the_sequence_is_softmax_attention(causal):
    module = AdaptiveSpanAttention(H, head_dim=D, causal=causal, max_span=1000)
    softmax = SoftmaxAttention(H, head_dim=D, causal=causal, implementation="dense")
    x = tokens(B, T, C)
    variables = random_variables(module, x)
    params = {name: value for name, value in variables["params"].items() if name != "span_logit"}
    expected = calls.apply(softmax, {"params": params}, x)
    np.testing.assert_allclose(calls.apply(module, variables, x), expected, atol=1e-6)
    short = calls.apply(module.clone(max_span=3, softness=1, implementation="dense"), variables, x)
    assert not np.allclose(short, expected, atol=1e-2)


def test_released_and_default_give_the_same():
    module, variables, x, mask, _ = arguments("segments")
    found, released = (calls.apply(module.clone(as_published=flag), variables, x, mask) for flag in (False, True))
    np.testing.assert_array_equal(found, released)


def test_the_dense_code_reads_every_token_and_ours_only_those_within_reach():
    """The first of three blocks of keys is NaN: all pairs are multiplied by the released code, few are here."""
    module = AdaptiveSpanAttention(H, head_dim=D, causal=True, max_span=128, softness=8)
    x = jnp.asarray(np.where(np.arange(384)[:, None] < 128, np.nan, tokens(1, 384, C)))
    variables = random_variables(module, x)
    variables["params"]["span_logit"] = np.full(H, np.log(0.1 / 0.9), np.float32)
    dense = calls.apply(module.clone(implementation="dense"), variables, x)
    ours = np.asarray(calls.apply(module, variables, x))
    assert np.isnan(dense).all()
    assert np.isnan(ours[:, :256]).all()
    assert np.isfinite(ours[:, 256:]).all()


def test_a_row_that_the_wave_empties_is_zero_where_the_released_code_gives_none():
    """Period 40 at the lowest ratio: no key is in sight, not even the query's own."""
    fields = {"periodic": True, "period_min": 39, "period_max": 41, "max_span": 9, "use_bias": False}
    module, x = AdaptiveSpanAttention(H, head_dim=D, **fields), tokens(B, T, C)
    variables = random_variables(module, x)
    variables["params"] |= {"period_logit": jnp.zeros(H), "ratio_logit": jnp.full(H, -30.0)}
    _, period, ratio = learned(module, variables["params"])
    logits = np.zeros((T, T)) + log_mask(triangle_mask(period, ratio, 5, np.arange(T))[:, None])
    with np.errstate(invalid="ignore"):
        assert np.isnan(np.exp(logits - logits.max(-1, keepdims=True))).all()  # the softmax of the released code

    def loss(variables):
        return (y := module.apply(variables, x)).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    np.testing.assert_array_equal(y, np.zeros_like(y))
    jax.tree.map(lambda gradient: np.testing.assert_array_equal(gradient, 0.0 * gradient), gradients)


def test_a_new_layer_looks_back_half_of_the_longest_span_and_its_periods_are_spread_evenly():
    module = AdaptiveSpanAttention(4096, head_dim=1, max_span=64, periodic=True, period_min=3, period_max=11)

    @functools.partial(jax.jit, static_argnums=0)
    def initial(module, x):
        params = nn.unbox(module.init(jax.random.key(0), x)["params"])
        return {name: leaf for name, leaf in params.items() if name.endswith("_logit")}

    span, period, ratio = learned(module, initial(module, tokens(2, 1)))
    np.testing.assert_array_equal(span, 32.0)
    np.testing.assert_array_equal(ratio, 0.0)
    # 4,096 draws: the standard error of a tenth's share is 0.3 / 64.
    np.testing.assert_allclose(np.histogram(period, 10, (3, 11))[0] / 4096, 0.1, atol=5 * 0.3 / 64)
    larger = initial(module.clone(span_init=0.75), tokens(2, 1))
    np.testing.assert_allclose(learned(module, larger)[0], 48, rtol=1e-6)


def test_the_loss_term_is_sown_when_asked_for_and_shortens_the_spans():
    """Nothing but the term is minimised: without the wave its slope is span_reg z (1 - z / S) / H for each head."""
    module, variables, x, _, _ = arguments("causal")
    assert set(jax.eval_shape(module.init, jax.random.key(0), x)) == {"params"}

    def term(params):
        _, sown = module.clone(span_reg=0.7).apply({"params": params}, x, mutable=["losses"])
        return sum(jax.tree.leaves(sown["losses"]))

    before = variables["params"]["span_logit"]
    slope = jax.jit(jax.grad(term))(variables["params"])
    z = learned(module, variables["params"])[0]
    np.testing.assert_allclose(slope["span_logit"], 0.7 * z * (1 - z / 8) / H, rtol=1e-5)
    others = {name: leaf for name, leaf in slope.items() if name != "span_logit"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(others))
    reached = jax.jit(lambda logit: module.spans({"span_logit": logit}, T).reach)
    assert np.all(reached(before - slope["span_logit"]) < reached(before))


def test_the_share_of_a_period_has_two_branches():
    """b = 1/P + 2 rho + 1/2 up to 1, then 1 + 1/2 + o - A: for P = 2 (1 at rho = 0) and P = 8."""
    module = AdaptiveSpanAttention(1, max_span=2, softness=31, periodic=True, period_min=1, period_max=15, span_reg=1)
    term = jax.jit(module.regularizer)
    eighth, high = np.log(3.0), 50.0  # sigmoid 3/4: rho = 1/8; sigmoid 1: rho = 1/4
    for period, ratio, share in (
        (8, 0.0, 0.625),
        (8, eighth, 0.875),
        (8, high, 1.5),
        (2, eighth, 1.25),
        (4, high, 1.5),
    ):
        rate = (period - 1) / 14
        params = {
            "span_logit": jnp.zeros(1),
            "period_logit": jnp.asarray([np.log(rate / (1 - rate))], jnp.float32),
            "ratio_logit": jnp.asarray([ratio], jnp.float32),
        }
        assert term(params) == pytest.approx((1 + 31) * share, rel=1e-5), (period, ratio)


def test_saved_work_is_that_of_the_blocks_beyond_each_head_or_the_longest():
    """Four by four blocks of 128 tokens: 10 are causal, a reach of 128 tokens leaves 7 of them, one of 130 leaves 9."""
    module = AdaptiveSpanAttention(2, head_dim=4, causal=True, max_span=512, softness=1)

    def saved(*reach, **fields):
        share = (np.asarray(reach) - 1) / 512
        params = {"span_logit": jnp.asarray(np.log(share / (1 - share)), jnp.float32)}
        spans = spans_of(module.clone(**fields), params, 512)
        np.testing.assert_allclose(spans.reach, reach, rtol=1e-5)
        return spans.saved

    np.testing.assert_allclose(saved(3.5, 511.5), 0.0, atol=1e-6)
    np.testing.assert_allclose(saved(3.5, 128.5), 1 - 7 / 10, rtol=1e-6)
    np.testing.assert_allclose(saved(3.5, 130.5), 1 - 9 / 10, rtol=1e-5)
    np.testing.assert_allclose(saved(3.5, 128.5, causal=False), 1 - 10 / 16, rtol=1e-6)
    # Eight by eight blocks: 15 of one head and 36 of the other, one after the other.
    longer = module.clone(max_span=1024)
    share = (np.asarray([3.5, 1023.5]) - 1) / 1024
    spans = spans_of(longer, {"span_logit": jnp.asarray(np.log(share / (1 - share)), jnp.float32)}, 1024)
    np.testing.assert_allclose(spans.saved, 1 - (15 + 36) / 72, rtol=1e-6)
    assert module.cost(512, width=8).flops > module.cost(512, width=8, reach=[3.5, 511.5]).flops
    whole, short = (module.cost(512, width=8, reach=[3.5, far]) for far in (511.5, 128.5))
    pairs = 3 * 128**2 * 2 * (2 * 4 + 1 + 2 + 5 + 2 * 4)  # three blocks less, two heads, a pair's work at D = 4
    assert whole.flops - short.flops == pairs
    assert (whole.params, whole.bytes) == (short.params, short.bytes)


def test_training_changes_spans_without_recompilation():
    module = AdaptiveSpanAttention(2, head_dim=4, causal=True, max_span=200, periodic=True)
    x, traces = tokens(1, 131, C), []
    variables = random_variables(module, x)

    @jax.jit
    def slope(params):
        traces.append(params)
        return jax.grad(lambda params: (module.apply({"params": params}, x) ** 2).sum())(params)

    for logit in (5.0, 0.0, -9.0):
        gradient = slope(variables["params"] | {"span_logit": np.full(2, logit, np.float32)})
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert len(traces) == 1


def test_64_tokens_decoded_one_by_one_are_those_of_one_pass():
    module = AdaptiveSpanAttention(H, head_dim=D, causal=True, max_length=64, softness=4, **{"periodic": True})
    x = tokens(1, 64, C)
    variables = random_variables(module, x)
    decoder = module.clone(decode=True)
    cache = calls.empty_cache(module, x)

    def step(cache, token):
        y, updated = decoder.apply({**variables, "cache": cache}, token[None, None], mutable=["cache"])
        return updated["cache"], y[0, 0]

    _, found = jax.jit(lambda cache: jax.lax.scan(step, cache, x[0]))(cache)
    expected = calls.apply(module.clone(implementation="dense"), variables, x)
    np.testing.assert_allclose(found, expected[0], atol=2e-5, rtol=1e-4)


def test_nothing_of_all_pairs_is_built():
    """At 2,048 tokens a matrix of pairs of one head has 16 MB."""
    module = AdaptiveSpanAttention(2, head_dim=8, causal=True, max_length=2048, periodic=True)
    x = jax.ShapeDtypeStruct((1, 2048, 16), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def scratch(implementation):
        def loss(variables, x):
            y, sown = module.clone(implementation=implementation).apply(variables, x, mutable=["losses"])
            return y.sum() + sum(jax.tree.leaves(sown["losses"]))

        return jax.jit(jax.grad(loss, (0, 1))).lower(variables, x).compile().memory_analysis().temp_size_in_bytes

    assert scratch(None) < 4 * 2048**2 < scratch("dense")


@pytest.mark.parametrize(
    ("fields", "length", "width", "batch"),
    [
        ({}, 96, 64, 1),
        ({"causal": True, "rotary": True}, 64, 32, 2),
        ({"periodic": True}, 64, 32, 2),
        ({"periodic": True, "causal": True, "harmonics": 9}, 96, 64, 1),
    ],
)
def test_cost_is_what_xla_counts_on_the_dense_path(fields, length, width, batch):
    module = AdaptiveSpanAttention(4, implementation="dense", max_span=length, **fields)
    x = jax.ShapeDtypeStruct((batch, length, width), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    optimized = {"xla_backend_optimization_level": 3}  # what is fused is counted as often as it is computed
    counted = jax.jit(module.apply).lower(variables, x).compile(optimized).cost_analysis()
    cost = module.cost(length, width=width, batch=batch)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(counted["flops"], rel=0.05)
    assert cost.bytes < counted["bytes accessed"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_span": None}, "adaptive span needs max_span, the longest span that can be learned: set it in tokens"),
        ({"max_span": 0}, "max_span is 0: it must be at least 1"),
        ({"max_span": None, "max_length": 0}, "max_length is 0: it must be at least 1"),
        ({"harmonics": 0}, "harmonics is 0: it must be at least 1"),
        ({"softness": 0}, "softness is 0: the mask falls over a positive number of tokens, such as 32"),
        ({"softness": float("nan")}, "softness is nan: the mask falls over a positive number of tokens"),
        ({"span_init": 1}, "span_init is 1: it is a share of max_span, above 0 and below 1"),
        ({"span_init": 0.0}, "span_init is 0.0: it is a share"),
        ({"span_reg": -1e-6}, "span_reg is -1e-06: it must be at least 0, which leaves spans free"),
        ({"period_min": 8}, "period_min 8 and period_max 8.0 bound no period: period_min must be above 0 and below"),
        ({"period_min": 0}, "period_min 0 and period_max 8.0 bound no period"),
    ],
)
def test_impossible_options_are_refused_when_the_module_is_built(fields, says):
    with pytest.raises(UserError) as caught:
        AdaptiveSpanAttention(2, **({"max_span": 8} | fields))
    assert says in str(caught.value)


def test_a_context_is_refused():
    module, x = AdaptiveSpanAttention(1, max_span=8), tokens(1, 3, C)
    with pytest.raises(UserError, match="no cross-attention to a context: its spans are distances within one sequence"):
        module.init(jax.random.key(0), x, context=x)


def test_options_are_checked_against_the_fields():
    options = {"max_span": 64, "softness": 4, "periodic": True, "period_max": 6, "harmonics": 3, "span_reg": 1e-5}
    module = mechanism("adaptive_span", options).module(num_heads=2, causal=True)
    assert (module.max_span, module.softness, module.period_max, module.causal) == (64, 4, 6, True)
    with pytest.raises(UserError, match=r"option harmonics of mechanism 'adaptive_span' is 2\.5: it must be int"):
        mechanism("adaptive_span", {"harmonics": 2.5})
