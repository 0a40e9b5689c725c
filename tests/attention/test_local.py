"""Local attention against its equation and against the released code's text, both in NumPy float64."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import core
from jattn.attention import LocalAttention, SoftmaxAttention
from jattn.errors import UserError
from tests import calls

from .allowed_pairs import tokens

random_variables = functools.partial(calls.random_variables, spread=0.5)

B, H, D, T, S, C = 2, 3, 4, 17, 23, 13


def heads_of(module, params, x, context):
    """Queries, keys and values before rotation, and the scale and gate."""

    def project(name, tokens):
        heads = np.einsum("btc,chd->bhtd", tokens, params[name]["kernel"])
        return heads + params[name]["bias"][:, None] if "bias" in params[name] else heads

    if module.prenorm:
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
        x, context = normed, normed if context is x else context
    q, k, v = project("query", x), project("key", context), project("value", context)
    scale = q.shape[-1] ** -0.5
    if module.qk_rmsnorm:
        q, k = (
            tokens / np.linalg.norm(tokens, axis=-1, keepdims=True) * params[name]
            for tokens, name in ((q, "query_scale"), (k, "key_scale"))
        )
        scale = module.qk_scale
    gate = 1.0
    if module.gate_values_per_head:
        gate = 1 / (1 + np.exp(-(x @ params["gate"]["kernel"] + params["gate"]["bias"])))
        gate = np.moveaxis(gate, -1, 1)[..., None]
    return q, k, v, scale, gate


def turned(heads, positions):
    half = heads.shape[-1] // 2
    angles = np.exp(1j * positions[:, None] * 10000.0 ** (-np.arange(half) / half))
    points = (heads[..., :half] + 1j * heads[..., half:]) * angles
    return np.concatenate([points.real, points.imag], -1)


def rates(head_dim):
    half = (2 * np.arange(head_dim // 2) + 0.4 * head_dim) / (1.4 * head_dim)
    return np.concatenate([half, half])


def softmax(logits):
    numerators = np.exp(logits - np.maximum(logits.max(-1, keepdims=True), -1e30))
    return numerators / np.maximum(numerators.sum(-1, keepdims=True), 1e-300)


def merged(module, params, heads):
    return np.einsum("bhtd,hdc->btc", heads, params["out"]["kernel"]) + params["out"].get("bias", 0.0)


def doubles(*trees):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trees)


def equation(module, params, x, context, allowed, attn_bias=None):
    """The default's equation: output and weights. allowed: (B, T, S), what the mask allows."""
    params, x, context = *doubles(params, x), (x if context is None else np.asarray(context, np.float64))
    context = x if context.shape == x.shape and np.array_equal(context, x) else context
    q, k, v, scale, gate = heads_of(module, params, x, context)
    t, s = np.arange(q.shape[2]), np.arange(k.shape[2])
    lag, w, back = t[:, None] - s, module.window_size, module.look_backward
    ahead = (0 if module.causal else 1) if module.look_forward is None else module.look_forward
    if module.rotary:
        q, k = turned(q, t), turned(k, s)
    if module.use_xpos:
        base = module.xpos_scale_base or w // 2
        scores = sum(
            np.einsum("bht,bhs->bhts", q[..., i], k[..., i]) * z ** (np.clip(lag, -3 * w, 3 * w) / base)
            for i, z in enumerate(rates(q.shape[-1]))
        )
    else:
        scores = np.einsum("bhtd,bhsd->bhts", q, k)
    scores = scale * scores
    if module.exact_windowsize:
        window, first = (lag <= w * back) & (lag >= -w * ahead), -w * ahead
    else:
        blocks = t[:, None] // w - s // w
        window, first = (blocks <= back) & (blocks >= -ahead), -(0 if module.causal else w * ahead + w - 1)
    if module.causal:
        window = window & (lag >= 0)
    if module.attention_bias:
        table = params["attention_bias"]
        scores = scores + table[:, np.clip(lag - first, 0, table.shape[1] - 1)]
    if attn_bias is not None:
        slot = s - (t // w - back)[:, None] * w
        scores = scores + np.asarray(attn_bias)[:, (t % w)[:, None], np.clip(slot, 0, attn_bias.shape[2] - 1)]
    weights = softmax(np.where((allowed & window)[:, None], scores, -np.inf))
    return merged(module, params, gate * np.einsum("bhts,bhsd->bhtd", weights, v)), weights


def released(module, params, x, mask=None, attn_bias=None):
    """The released code's text: windows of keys around each block, slot by slot."""
    params, x = doubles(params, x)
    q, k, v, scale, gate = heads_of(module, params, x, x)
    length, w, back = x.shape[1], module.window_size, module.look_backward
    ahead = (0 if module.causal else 1) if module.look_forward is None else module.look_forward
    total, slots = -(-length // w) * w, (back + 1 + ahead) * w
    q, k, v = (np.pad(h, ((0, 0), (0, 0), (0, total - length), (0, 0))) for h in (q, k, v))
    keep = None if mask is None else np.pad(np.asarray(mask), ((0, 0), (0, total - length)))
    rows = []
    for block in range(total // w):
        places = (block - back) * w + np.arange(slots)
        inside = (places >= 0) & (places < total)
        at = np.clip(places, 0, total - 1)
        queries, t = scale * q[:, :, block * w : (block + 1) * w], block * w + np.arange(w)
        keys, values = (np.where(inside[:, None], h[:, :, at], -1.0) for h in (k, v))
        if module.rotary:
            last = slots - w + np.arange(w)
            queries, keys = turned(queries, last), turned(keys, np.arange(slots))
            if module.use_xpos:
                z, base = rates(q.shape[-1]), module.xpos_scale_base or w // 2
                queries = queries * z ** ((last - slots // 2) / base)[:, None]
                keys = keys * z ** (-(np.arange(slots) - slots // 2) / base)[:, None]
        scores = np.einsum("bhtd,bhsd->bhts", queries, keys)
        if attn_bias is not None:
            scores = scores + np.asarray(attn_bias)
        places = np.where(inside, places, -1)
        hidden = ~inside[None] | np.zeros((w, 1), bool)
        if module.causal:
            hidden = t[:, None] < places
            if module.exact_windowsize:
                hidden |= t[:, None] > places + w * back
            hidden |= ~inside  # never attended to: those before the first token are hidden, causal or not
        elif module.exact_windowsize:
            hidden = hidden | (places - w * ahead > t[:, None]) | (t[:, None] > places + w * back)
        hidden = np.broadcast_to(hidden, (x.shape[0], 1, w, slots))
        if keep is not None:
            hidden = hidden | ~np.where(inside, keep[:, at], False)[:, None, None]
        scores = np.where(hidden, -3e38, scores)  # a row of nothing else is uniform
        weights = softmax(scores - scores.max(-1, keepdims=True))
        rows.append(np.einsum("bhts,bhsd->bhtd", weights, values))
    return merged(module, params, gate * np.concatenate(rows, 2)[:, :, :length])


# Every option, with the others that it could interact with, in both forms where the form changes the window.
CALLS = {
    "a window of one": ({"window_size": 1}, None),
    "far back, segments": ({"window_size": 2, "look_backward": 3, "look_forward": 2, "use_bias": False}, "segments"),
    "forwards alone": ({"window_size": 3, "look_backward": 0, "look_forward": 2}, None),
    "whole blocks": ({"window_size": 4, "exact_windowsize": False}, None),
    "causal whole blocks": ({"window_size": 5, "exact_windowsize": False, "causal": True, "look_backward": 2}, None),
    "xpos": ({"window_size": 8, "use_xpos": True}, None),
    "xpos, causal, of a base": ({"window_size": 4, "use_xpos": True, "xpos_scale_base": 3, "causal": True}, None),
    "normed": ({"window_size": 4, "qk_rmsnorm": True, "qk_scale": 3}, None),
    "gate and norm": ({"window_size": 3, "gate_values_per_head": True, "prenorm": True, "rotary": False}, None),
    "bias of the lag, padding": ({"window_size": 4, "attention_bias": True}, "padding"),
    "causal bias of the lag": ({"window_size": 4, "attention_bias": True, "causal": True, "look_backward": 2}, None),
    "bias of the lag, whole blocks": ({"window_size": 4, "attention_bias": True, "exact_windowsize": False}, None),
    "causal padding": ({"window_size": 2, "causal": True}, "padding"),
    "bias of the slots": ({"window_size": 4}, "bias"),
    "causal bias of the slots": ({"window_size": 4, "causal": True, "look_backward": 2}, "bias"),
    "context": ({"window_size": 4, "prenorm": True}, "context"),
}


@pytest.mark.parametrize("call", CALLS)
def test_output_and_weights_are_those_of_the_equation(call):
    fields, kind = CALLS[call]
    module = LocalAttention(num_heads=H, head_dim=D, **fields)
    x, context = tokens(B, T, C), tokens(B, S, C, seed=1) if kind == "context" else None
    variables = random_variables(module, x, context)
    allowed, mask, extra = np.ones((B, T, S if kind == "context" else T), bool), None, {}
    if kind == "padding":
        mask = np.stack([np.arange(T) > 6, np.arange(T) % 5 != 3])  # the first queries of example 0 have no key
        allowed = allowed & mask[:, None]
    if kind == "segments":
        mask = np.repeat([[5, 2, 0], [1, 1, 3]], [6, 7, 4], axis=1).astype(np.int32)
        allowed = (mask[:, :, None] == mask[:, None]) & (mask != 0)[:, None]
    if kind == "bias":
        around = module.look_backward + 1 + module.forward
        extra = {"attn_bias": tokens(H, module.window_size, around * module.window_size, seed=2)}
    expected, weights = equation(module, variables["params"], x, context, allowed, **extra)
    # What is reported is found densely.
    y, sown = calls.apply(module, variables, x, mask, context=context, mutable=["intermediates"], **extra)
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], weights, atol=5e-6)


RELEASED = {
    "plain": ({"window_size": 4}, None),
    "far": ({"window_size": 3, "look_backward": 2, "look_forward": 2, "qk_rmsnorm": True}, None),
    "causal": ({"window_size": 4, "causal": True, "look_backward": 2}, None),
    "whole blocks": ({"window_size": 4, "exact_windowsize": False}, None),
    "xpos": ({"window_size": 6, "use_xpos": True, "gate_values_per_head": True}, None),
    "xpos, whole blocks": ({"window_size": 6, "use_xpos": True, "exact_windowsize": False, "causal": True}, None),
    "bias": ({"window_size": 5, "prenorm": True}, "bias"),
    "causal bias": ({"window_size": 5, "causal": True}, "bias"),
    "mask": ({"window_size": 4}, "mask"),
    "mask, whole blocks": ({"window_size": 4, "exact_windowsize": False, "rotary": False}, "mask"),
    "causal mask": ({"window_size": 3, "causal": True}, "mask"),
    "causal mask, whole blocks": ({"window_size": 3, "causal": True, "exact_windowsize": False}, "mask"),
    "a window over everything": ({"window_size": 32}, None),
}


@pytest.mark.parametrize("call", RELEASED)
def test_as_published_is_the_released_text(call):
    fields, kind = RELEASED[call]
    implementation = None if fields.get("use_xpos") else "dense"  # scores of xPos are released code's too
    options = {"head_dim": D, "use_bias": False, "as_published": True, "implementation": implementation}
    module = LocalAttention(num_heads=H, **options, **fields)
    x, mask, extra = tokens(B, T, C), None, {}
    variables = random_variables(module, x)
    if kind == "bias":
        around = module.look_backward + 1 + module.forward
        extra = {"attn_bias": tokens(H, module.window_size, around * module.window_size, seed=2)}
    if kind == "mask":  # long runs: whole windows are hidden at the start, in the middle and at the end
        mask = np.stack([(np.arange(T) > 6) & (np.arange(T) < 15), (np.arange(T) < 2) | (np.arange(T) > 13)])
    expected = released(module, variables["params"], x, mask, **extra)
    found = calls.apply(module, variables, x, mask, **extra)
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)


def both_sides(mask=None, length=T, **fields):
    """Outputs of the default and of the released form, for the same parameters."""
    module = LocalAttention(num_heads=H, head_dim=D, use_bias=False, implementation="dense", **fields)
    x = tokens(B, length, C)
    variables = random_variables(module, x)
    outputs = [calls.apply(module.clone(as_published=flag), variables, x, mask) for flag in (False, True)]
    return module, variables, x, outputs


def test_released_angles_of_queries_are_off_by_the_windows_ahead_ours_are_relative():
    # Without padding, the released queries act as if they stood 4 tokens on.
    module, variables, x, (ours, theirs) = both_sides(window_size=4, length=16)
    assert not np.allclose(ours, theirs, atol=1e-2)
    np.testing.assert_allclose(
        ours, equation(module, variables["params"], x, None, np.ones((B, 16, 16), bool))[0], atol=2e-5
    )
    for same in ({"rotary": False}, {"causal": True}):
        *_, (ours, theirs) = both_sides(window_size=4, length=16, **same)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_released_padding_of_the_last_window_is_attended_to_ours_is_not():
    *_, (ours, theirs) = both_sides(window_size=4, rotary=False)
    np.testing.assert_allclose(ours[:, :12], theirs[:, :12], atol=1e-6)  # token 12 sees up to 16, which is real
    assert np.all(np.abs(ours[:, 13:] - theirs[:, 13:]).max(-1) > 1e-3)
    # To both, a mask that hides nothing means that the padding is hidden too.
    *_, (ours_masked, theirs_masked) = both_sides(np.ones((B, T), bool), window_size=4, rotary=False)
    np.testing.assert_allclose(ours_masked, ours, atol=1e-6)
    np.testing.assert_allclose(theirs_masked, ours, atol=1e-6)


def test_released_rows_without_keys_are_means_ours_are_zero():
    mask = np.broadcast_to(np.arange(T) >= 12, (B, T))
    *_, (ours, theirs) = both_sides(mask, window_size=4, rotary=False)
    np.testing.assert_array_equal(ours[:, :8], np.zeros((B, 8, C)))
    assert np.all(np.abs(theirs[:, :8]).max(-1) > 1e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"causal": True, "as_published": True},
        {"exact_windowsize": False},
        {"exact_windowsize": False, "as_published": True, "window_size": T},  # nothing is padded
    ],
    ids=str,
)
def test_a_window_over_everything_without_rotation_is_softmax_attention(fields):
    module = LocalAttention(num_heads=H, head_dim=D, rotary=False, **fields)
    softmax = SoftmaxAttention(num_heads=H, head_dim=D, causal=module.causal, implementation="dense")
    x = tokens(B, T, C)
    variables = random_variables(softmax, x)

    def call(module):
        y, pull = jax.vjp(module.apply, variables, x)
        return y, pull(y)

    found, expected = jax.jit(lambda: (call(module), call(softmax)))()
    # The gradient of the keys' bias is zero but for rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-5), found, expected)


@pytest.mark.parametrize(
    ("fields", "implementation"),
    [
        ({"causal": True}, "blockwise"),
        ({}, "dense"),
        ({"exact_windowsize": False, "xpos_scale_base": 8}, "blockwise"),
    ],
)
def test_xpos_of_a_small_window_stays_exact_over_a_thousand_tokens(fields, implementation):
    # Decays over the whole length, 0.29 ** (1024 / 4), are no float32 numbers: absolute scales would be 0 or infinite.
    # Without rotation, whose angles are float32 and lose digits as positions grow.
    options = {"window_size": 8, "use_xpos": True, "rotary": False, "implementation": implementation}
    module, x = LocalAttention(num_heads=2, head_dim=8, **options, **fields), tokens(1, 1024, C)
    variables = random_variables(module, x)

    @jax.jit
    def call(variables, x):
        y, pull = jax.vjp(module.apply, variables, x)
        return y, pull(jnp.ones_like(y))

    y, gradients = call(variables, x)
    expected, _ = equation(module, variables["params"], x, None, np.ones((1, 1024, 1024), bool))
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 1)])
def test_reach_of_blocks_is_as_small_as_can_be(size, before, after):
    mask, places = core.NearBlocks(size, before, after), np.arange(7 * size)
    at = jnp.asarray(places)
    allowed = np.asarray(jax.jit(mask)({"place": at}, {"place": at}, at, at))
    lags = np.subtract.outer(places, places)[allowed]
    assert mask.reach() == (lags.min(), lags.max())


def test_whole_blocks_are_counted_from_the_start_of_a_packed_sequence():
    module = LocalAttention(num_heads=H, head_dim=D, window_size=2, exact_windowsize=False)
    x = np.asarray(tokens(B, T, C))
    call = functools.partial(calls.apply, module, random_variables(module, x))
    packed = call(x, np.broadcast_to(1 + np.arange(T, dtype=np.int32) // 7, (B, T)))
    for part in (slice(0, 7), slice(7, 14)):  # the second begins within a block of the first token's
        np.testing.assert_allclose(packed[:, part], call(x[:, part]), atol=2e-5)


@pytest.mark.parametrize("fields", [{}, {"exact_windowsize": False, "use_xpos": True, "attention_bias": True}])
def test_64_tokens_decoded_one_by_one_are_those_of_one_pass(fields):
    module = LocalAttention(num_heads=H, head_dim=D, window_size=7, causal=True, **fields)
    x = tokens(B, 64, C)
    variables, decoder = random_variables(module, x), module.clone(decode=True)
    cache = calls.empty_cache(module, x)
    step = jax.jit(lambda cache, x: decoder.apply({**variables, "cache": cache}, x, mutable=["cache"]))
    full = calls.apply(module.clone(implementation="dense"), variables, x)
    for t in range(64):
        y, updated = step(cache, np.asarray(x)[:, t : t + 1])
        cache = updated["cache"]
        np.testing.assert_allclose(np.asarray(y)[:, 0], full[:, t], atol=2e-5, rtol=1e-4)


def test_the_learned_bias_starts_at_zero_and_learns_per_lag():
    module = LocalAttention(num_heads=H, head_dim=D, window_size=3, attention_bias=True)
    x = tokens(B, T, C)
    initial = jax.jit(lambda x: module.init(jax.random.key(0), x)["params"]["attention_bias"].unbox())(x)
    np.testing.assert_array_equal(initial, np.zeros((H, 7)))
    params = random_variables(module, x)["params"]

    def loss(bias):
        return jnp.sum(module.apply({"params": params | {"attention_bias": bias}}, x) ** 2)

    assert np.all(np.asarray(jax.jit(jax.grad(loss))(initial)) != 0)


def largest_array(jaxpr):
    """The most elements that any value has inside a program, loops and calls included."""
    sizes = [int(np.prod(value.aval.shape)) for eqn in jaxpr.eqns for value in eqn.outvars]
    inner = [largest_array(part) for eqn in jaxpr.eqns for part in jax.extend.core.jaxprs_in_params(eqn.params)]
    return max(sizes + inner, default=0)


@pytest.mark.parametrize(
    "fields", [{"attention_bias": True, "as_published": True}, {"exact_windowsize": False, "use_xpos": True}]
)
def test_no_array_is_as_large_as_all_pairs(fields):
    module = LocalAttention(num_heads=2, **fields)
    x = jax.ShapeDtypeStruct((1, 2000, 16), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def train(module, variables, x):
        y, pull = jax.vjp(module.apply, variables, x)
        return pull(y)

    def largest(module):
        return largest_array(jax.make_jaxpr(functools.partial(train, module))(variables, x).jaxpr)

    assert largest(module) <= 2000 * 2000 // 16
    assert largest(module.clone(implementation="dense")) >= 2 * 2000 * 2000


SELF, CROSSED = (64, 64, 32), (32, 96, 64)
WHOLE_BLOCKS = {"exact_windowsize": False, "use_xpos": True, "attention_bias": True}


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({}, CROSSED),
        ({"causal": True, "use_bias": False, "rotary": False}, SELF),
        (WHOLE_BLOCKS, SELF),
        (WHOLE_BLOCKS, CROSSED),  # xPos works on queries and on keys, and not as much on each
        ({"qk_rmsnorm": True, "gate_values_per_head": True, "prenorm": True}, CROSSED),
    ],
)
def test_cost_is_what_xla_counts_on_the_dense_path(fields, sizes):
    queries, keys, width = sizes
    module = LocalAttention(num_heads=4, window_size=5, implementation="dense", **fields)
    x, context = (jax.ShapeDtypeStruct((2, n, width), jnp.float32) for n in (queries, keys))
    context = None if queries == keys else context
    variables = jax.eval_shape(lambda x, c: module.init(jax.random.key(0), x, context=c), x, context)
    call = jax.jit(lambda variables, x, context: module.apply(variables, x, context=context))
    counted = call.lower(variables, x, context).compile().cost_analysis()
    cost = module.cost(queries, keys, width=width, batch=2)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(counted["flops"], rel=0.05)
    assert cost.bytes < counted["bytes accessed"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"window_size": 0}, "window_size is 0: it must be at least 1"),
        ({"look_backward": -1}, "look_backward is -1 and look_forward 1: neither can be negative"),
        ({"look_forward": -2}, "look_backward is 1 and look_forward -2: neither can be negative"),
        ({"causal": True, "look_forward": 1}, "look_forward=1 sees later tokens, which causal=True forbids"),
        (
            {"use_xpos": True, "xpos_scale_base": 1},
            r"xpos_scale_base 1 is too small for windows of up to 128 tokens, .*: it must be at least 3",
        ),
    ],
)
def test_impossible_options_are_refused_when_the_module_is_built(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        LocalAttention(num_heads=2, **fields)


def test_a_bias_of_slots_of_another_shape_is_refused():
    module = LocalAttention(num_heads=H, head_dim=D, window_size=4)
    with pytest.raises(UserError, match=r"attn_bias has shape \(3, 4, 8\), it must be \(3, 4, 12\): heads, slots"):
        calls.shapes(module, tokens(B, T, C), attn_bias=jnp.zeros((H, 4, 8)))
