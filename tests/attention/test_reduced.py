"""Optimised, efficient and super attention against their equations in NumPy float64, and against each other."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.analysis import patterns
from jattn.attention import EfficientAttention, OptimisedAttention, SoftmaxAttention, SuperAttention
from jattn.attention.base import Lacking
from jattn.attention.softmax_axis import check_softmax_axis
from jattn.attention.token_mixing import positions_in_segments
from jattn.errors import UserError
from jattn.testing import Sizes, check_mechanism
from tests import calls
from tests.calls import random_variables

B, H, E, T, S, L = 2, 3, 5, 7, 11, 13
C = H * E


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def softmax(logits, axis):
    """Softmax; zeros where all are -inf."""
    shifted = np.exp(logits - np.maximum(logits.max(axis, keepdims=True), -1e30))
    return shifted / np.maximum(shifted.sum(axis, keepdims=True), 1e-300)


def slices(x):
    return np.stack(np.split(x, H, axis=-1), axis=1)


def mixed(module, params, v, segments):
    """V' = A V + b 1^T, with a loop over tokens. segments: int (B, S), 0 = left out."""
    kernel = np.broadcast_to(params["mixing"]["kernel"].transpose(1, 2, 0), (H, L, L))
    bias = np.broadcast_to(params["mixing"].get("bias", np.zeros((1, L))), (H, L))
    packed = segments.max() > 1
    places = np.broadcast_to(np.arange(v.shape[2]), segments.shape)
    if packed:
        places = np.stack([[(ids[:i] == ids[i]).sum() for i in range(len(ids))] for ids in segments])
    out = np.zeros(v.shape)
    for b, i, j in np.ndindex(*segments.shape, v.shape[2]):
        if segments[b, i] == segments[b, j] != 0 and (j <= i or not module.causal):
            out[b, :, i] += kernel[:, places[b, i], places[b, j], None] * v[b, :, j]
    return out + np.moveaxis(bias[:, places], 0, 1)[..., None]


def oracle(module, params, x, context, allowed, segments):
    """The equation: output (B, T, C), weights (B, H, T, S) and scores. allowed: bool (B, T, S)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nn.unbox(params))
    x, context = np.asarray(x, np.float64), np.asarray(context, np.float64)

    def project(name, tokens):
        return np.einsum("btc,chd->bhtd", tokens, params[name]["kernel"]) + (
            params[name]["bias"][:, None] if module.use_bias else 0
        )

    q, v = project("query", x), slices(context)
    k = project("key", context) if isinstance(module, OptimisedAttention) else slices(context)
    if isinstance(module, SuperAttention):
        v = mixed(module, params, v, segments)
    scores = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(q.shape[-1])
    weights = softmax(np.where(allowed[:, None], scores, -np.inf), -2 if module.axis == "queries" else -1)
    y = np.einsum("bhts,bhsd,hdc->btc", weights, v, params["out"]["kernel"])
    return (y + params["out"]["bias"] if module.use_bias else y), weights, scores


OPTIMISED = functools.partial(OptimisedAttention, head_dim=4)
SUPER = functools.partial(SuperAttention, max_length=L)
QUERIES = {"softmax_axis": "queries"}
OWN = {"shared": False, "token_bias": True, "use_bias": False}
CALLS = {
    "optimised": (OPTIMISED, {}, None, False),
    "optimised, causal padding": (OPTIMISED, {"causal": True}, "padding", False),
    "optimised, context": (OPTIMISED, {"use_bias": False}, "padding", True),
    "optimised over queries": (OPTIMISED, QUERIES, "padding", False),
    "efficient": (EfficientAttention, {}, None, False),
    "efficient, causal": (EfficientAttention, {"causal": True, "use_bias": False}, None, False),
    "efficient, pairs": (EfficientAttention, {}, "pairs", False),
    "efficient over queries, segments": (EfficientAttention, QUERIES, "segments", False),
    "efficient over queries, context": (EfficientAttention, QUERIES, "padding", True),
    "efficient over queries, pairs": (EfficientAttention, QUERIES, "pairs", False),
    "super": (SUPER, {}, None, False),
    "super, padding": (SUPER, {}, "padding", False),
    "super, causal padding": (SUPER, {"causal": True}, "padding", False),
    "super, segments": (SUPER, OWN, "segments", False),
    "super, causal segments": (SUPER, {"causal": True}, "segments", False),
    "super, context": (SUPER, OWN, "padding", True),
    "super, no bias in A": (SUPER, {"token_bias": False}, None, False),
    "super over queries": (SUPER, QUERIES | OWN, "padding", False),
}


def arguments(call):
    """Module, variables, x, mask, context, allowed pairs and segments of a call."""
    made, fields, kind, crossed = CALLS[call]
    module = made(num_heads=H, **fields)
    x, context = tokens(B, T, C), tokens(B, S, C, seed=1) if crossed else None
    keys = S if crossed else T
    mask, allowed, segments = None, np.ones((B, T, keys), bool), np.ones((B, keys), int)
    if kind == "padding":
        mask = np.arange(keys) != np.array([[0], [3]])  # causal: the first query of example 0 has no key
        allowed, segments = allowed & mask[:, None], mask.astype(int)
        if module.axis == "queries" and not crossed:
            allowed = allowed & mask[:, :, None]
    if kind == "segments":
        mask = segments = np.array([[3, 3, 3, 5, 5, 0, 0], [0, 2, 2, 1, 1, 1, 2]], np.int32)
        allowed = (mask[:, :, None] == mask[:, None]) & (mask != 0)[:, None]
    if kind == "pairs":
        mask = allowed = np.random.default_rng(4).random(allowed.shape) < 0.6
    if module.causal:
        allowed = allowed & np.tril(np.ones((T, keys), bool))
    variables = random_variables(module, x, context)
    mask = None if mask is None else jnp.asarray(mask)
    return module, variables, x, mask, context, allowed, segments


@pytest.mark.parametrize("name", CALLS)
def test_output_weights_and_energy_are_those_of_the_equation(name):
    module, variables, x, mask, context, allowed, segments = arguments(name)
    keys = x if context is None else context
    expected, weights, scores = oracle(module, variables["params"], x, keys, allowed, segments)

    @jax.jit
    def call(variables, x, mask, context):
        return module.apply(variables, x, mask, context=context, mutable=["energies", "intermediates"])

    y, sown = call(variables, x, mask, context)
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], weights, atol=2e-6)
    real = np.ones((B, T), bool) if mask is None or context is not None or mask.ndim > 2 else np.asarray(mask) != 0
    pairs = np.broadcast_to((allowed & real[..., None])[:, None], scores.shape)
    np.testing.assert_allclose(sown["energies"]["energy"][0], np.abs(scores)[pairs].mean(), rtol=1e-5)
    rows, shares = sown["intermediates"]["statistics"][0], patterns.shares(weights)
    np.testing.assert_allclose(rows.entropy, patterns.entropy(shares), atol=2e-5)
    some = np.broadcast_to(allowed[:, None], scores.shape).any(-1)
    means = np.where(allowed[:, None], scores, 0).sum(-1) / np.maximum(allowed.sum(-1), 1)[:, None]
    np.testing.assert_allclose(rows.mean, np.where(some, means, 0), atol=2e-5)


PUBLISHED = {"as_published": True}


@pytest.mark.parametrize(
    ("made", "fields", "axis"),
    [
        (OPTIMISED, {}, -1),
        (OPTIMISED, PUBLISHED, -2),
        (EfficientAttention, PUBLISHED, -2),
        (SUPER, PUBLISHED, -2),
        (SUPER, PUBLISHED | {"softmax_axis": "keys"}, -1),
    ],
)
def test_the_released_softmax_is_over_the_queries_ours_over_the_keys(made, fields, axis):
    module, x = made(num_heads=H, **fields), tokens(B, L, C)
    weights = calls.apply(module, random_variables(module, x), x, method="weights")
    np.testing.assert_allclose(weights.sum(axis), np.ones((B, H, L)), atol=1e-5)
    assert not np.allclose(weights.sum(-3 - axis), 1, atol=1e-2)


def test_softmax_attention_has_the_released_axis_too():
    x = tokens(B, T, C)
    module = SoftmaxAttention(num_heads=H, num_key_heads=1, value_dim=4, softmax_axis="queries")
    params = random_variables(module, x)["params"]
    assert params["out"]["kernel"].shape == (H, 4, C)
    y, sown = calls.apply(module, {"params": params}, x, mutable=["intermediates"])
    params = jax.tree.map(np.asarray, params)
    q, k, v = (
        np.einsum("btc,chd->bhtd", x, params[name]["kernel"]) + params[name]["bias"][:, None]
        for name in ("query", "key", "value")
    )
    expected = softmax(np.einsum("bhtd,bsd->bhts", q, k[:, 0]) / np.sqrt(E), -2)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], expected, atol=2e-6)
    merged = np.einsum("bhts,bse,hec->btc", expected, v[:, 0], params["out"]["kernel"])
    np.testing.assert_allclose(y, merged + params["out"]["bias"], atol=2e-5, rtol=1e-4)


def test_a_softmax_over_queries_keeps_the_contract_where_it_can():
    # One query depends on the others by design, and its weights, which the equation gives above, do not sum to 1.
    properties = ("batch_axes", "padding", "truncation", "empty_rows", "segments", "decode", "bfloat16")
    properties += ("implementations", "batch_independence", "gradients", "dropout", "energies")
    made = functools.partial(EfficientAttention, softmax_axis="queries")
    lacks = {"decode": "it is not causal"}
    check_mechanism(made, causal=False, lacks=lacks, sizes=Sizes(head_dim=None, width=C), properties=properties)


@pytest.mark.parametrize("made", [OPTIMISED, EfficientAttention, SuperAttention, SoftmaxAttention])
def test_a_causal_softmax_over_queries_is_refused(made):
    with pytest.raises(UserError, match=r"cannot be causal: .* softmax_axis='keys'"):
        made(num_heads=H, causal=True, softmax_axis="queries")
    if made is not SoftmaxAttention:
        with pytest.raises(UserError, match="cannot be causal"):
            made(num_heads=H, causal=True, as_published=True)
        made(num_heads=H, causal=True, as_published=True, softmax_axis="keys")


def test_an_unknown_axis_is_refused():
    with pytest.raises(UserError, match="unknown softmax_axis 'key': did you mean 'keys'"):
        check_softmax_axis("key", causal=False)


def identity_projections(*names):
    """Parameters that hand each head its slice of the tokens."""
    kernel = np.eye(C, dtype=np.float32).reshape(C, H, E)
    return {name: {"kernel": kernel, "bias": np.zeros((H, E), np.float32)} for name in names}


@pytest.mark.parametrize("causal", [False, True])
def test_each_is_the_one_before_with_an_identity_in_the_place_of_a_projection(causal):
    x = tokens(B, T, C)
    fields = {"num_heads": H, "causal": causal, "implementation": "dense"}
    modules = [made(**fields) for made in (SoftmaxAttention, OptimisedAttention, EfficientAttention, SUPER)]
    params = random_variables(modules[2], x)["params"]
    alike = {
        "mixing": {"kernel": np.eye(L, dtype=np.float32)[:, None], "bias": np.zeros((1, L), np.float32)},
        **identity_projections("key", "value"),
    }
    softmaxed, *others = (
        calls.apply(module, {"params": params | {name: alike[name] for name in names}}, x)
        for module, names in zip(modules, (("key", "value"), ("key",), (), ("mixing",)), strict=True)
    )
    for other in others:
        np.testing.assert_allclose(other, softmaxed, atol=2e-5, rtol=1e-4)


def test_the_released_matrix_takes_one_length_ours_any_up_to_its_own():
    long, short = tokens(B, L, C), tokens(B, T, C)
    made = functools.partial(SuperAttention, H, implementation="dense")
    ours, released = made(max_length=L), made(max_length=L, as_published=True, softmax_axis="keys")
    variables = random_variables(ours, long)
    apply = calls.apply
    np.testing.assert_allclose(apply(ours, variables, long), apply(released, variables, long), atol=2e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"exactly max_length 13 tokens, not 7"):
        apply(released, variables, short)
    # Shorter: the top-left block of the same matrix.
    block = jax.tree.map(lambda leaf: leaf[:T, :, :T] if leaf.ndim == 3 else leaf[:, :T], variables["params"]["mixing"])
    small = {"params": variables["params"] | {"mixing": block}}
    expected = apply(made(max_length=T), small, short)
    np.testing.assert_allclose(apply(ours, variables, short), expected, atol=1e-6)
    # Without max_length it is that of the parameters.
    np.testing.assert_allclose(apply(made(), small, short), expected, atol=1e-6)
    with pytest.raises(UserError, match=r"at most max_length 13 tokens, but there are 14: .* at least 14"):
        apply(ours, variables, tokens(B, 14, C))


def test_the_causal_matrix_is_lower_triangular():
    module, x = SUPER(num_heads=H, causal=True, implementation="dense"), tokens(1, L, C)
    variables = random_variables(module, x)

    def loss(kernel):
        mixing = variables["params"]["mixing"] | {"kernel": kernel}
        return jnp.square(module.apply({"params": variables["params"] | {"mixing": mixing}}, x)).sum()

    slope = np.asarray(jax.jit(jax.grad(loss))(variables["params"]["mixing"]["kernel"]))[:, 0].T
    np.testing.assert_array_equal(slope != 0, np.tril(np.ones((L, L), bool)))


@pytest.mark.parametrize("causal", [False, True])
def test_a_long_pack_is_mixed_as_its_sequences_alone(causal):
    # 210 tokens: more than one block of rows. Two sequences in turns, so that positions are not a shift of the place.
    ids = np.random.default_rng(5).permutation(np.arange(210, dtype=np.int32) % 3)[None]
    module = SuperAttention(H, causal=causal, max_length=210, shared=False, implementation="dense")
    x = np.asarray(tokens(1, 210, C))
    variables = random_variables(module, x)
    packed = calls.apply(module, variables, x, ids)
    for segment in (1, 2):
        own = np.flatnonzero(ids[0] == segment)
        alone = calls.apply(module, variables, x[:, own])
        np.testing.assert_allclose(packed[:, own], alone, atol=1e-4, rtol=1e-4)


def test_positions_in_segments():
    found = jax.jit(positions_in_segments)
    np.testing.assert_array_equal(found(np.int32([7, 7, 3, 7, 3, 0, 9])), [0, 1, 0, 2, 1, 0, 0])
    np.testing.assert_array_equal(found(np.zeros(5, np.int32)), np.arange(5))


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("made", [EfficientAttention, functools.partial(SuperAttention, max_length=67)])
def test_64_decoded_tokens_are_those_of_the_full_pass(made, segments):
    x = np.asarray(tokens(1, 64, C))
    mask = np.int32([[1] * 23 + [0] * 2 + [4] * 39]) if segments else None
    module = made(num_heads=H, causal=True, rotary=not segments)
    variables, decoder = random_variables(module, x), module.clone(decode=True)
    full = calls.apply(module.clone(implementation="dense"), variables, x, mask)
    cache = {"cache": calls.empty_cache(module, x)}
    step = jax.jit(functools.partial(decoder.apply, mutable=["cache"]))
    for t in range(64):
        part = slice(t, t + 1)
        y, cache = step(variables | cache, x[:, part], None if mask is None else mask[:, part])
        np.testing.assert_allclose(y, full[:, part], atol=5e-5, rtol=1e-4, err_msg=f"token {t}")
    y, _ = step(variables | cache, x[:, :1], None if mask is None else mask[:, :1])
    assert np.isnan(y).all()  # the cache is full


def test_efficient_attention_remembers_one_array():
    module = EfficientAttention(H, causal=True, decode=True)
    cache = jax.eval_shape(module.init, jax.random.key(0), tokens(B, T, C))["cache"]
    assert {name: leaf.shape for name, leaf in cache.items()} == {
        "cached_token": (B, H, T, E),
        "cached_mask": (B, 1, T),
        "cache_index": (),
    }


def test_the_matrix_starts_xavier_uniform_and_its_bias_zero():
    module = SuperAttention(H, max_length=97, shared=False)
    mixing = calls.init(module, tokens(1, 3, C))["params"]["mixing"]
    assert mixing["kernel"].shape == (97, H, 97)
    bound = np.sqrt(6 / (97 + 97))
    assert bound * 0.99 < np.abs(mixing["kernel"]).max() <= bound
    np.testing.assert_allclose(mixing["kernel"].std(), bound / np.sqrt(3), rtol=0.02)
    np.testing.assert_array_equal(mixing["bias"], np.zeros((H, 97)))
    assert "bias" not in calls.shapes(module.clone(use_bias=False), tokens(1, 3, C))["params"]["mixing"]


def test_what_a_user_can_get_wrong():
    x = tokens(B, T, C)

    def call(made, *args, **fields):
        return jax.eval_shape(lambda: made(**({"num_heads": H} | fields)).init(jax.random.key(0), x, *args))

    with pytest.raises(UserError, match=r"num_heads 4 does not divide the width 15 .* choose from 1, 3, 5, 15"):
        call(EfficientAttention, num_heads=4)
    for made in (EfficientAttention, SuperAttention):
        with pytest.raises(UserError, match=r"3 heads of 4 features are no slices of the width 15"):
            call(made, head_dim=4)
    with pytest.raises(UserError, match=r"3 heads of 6 features are no slices of the width 15"):
        call(OptimisedAttention, value_dim=6, as_published=True)
    # The released code leaves the last features unread.
    call(EfficientAttention, head_dim=4, as_published=True)
    call(OptimisedAttention, value_dim=4, as_published=True)
    with pytest.raises(UserError, match="max_length is 0"):
        SuperAttention(H, max_length=0)
    with pytest.raises(UserError, match="value_dim is 0"):
        SoftmaxAttention(H, value_dim=0)
    with pytest.raises(Lacking, match="a token hidden from a query would reach it"):
        call(SuperAttention, jnp.ones((B, T, T), bool))


ALIKE, CROSSED = (64, 64, 32), (32, 96, 64)
"""Queries, keys and width: of self-attention, and to a longer context. Below, each class and each form has both."""


@pytest.mark.parametrize(
    ("made", "fields", "sizes"),
    [
        (OptimisedAttention, {}, ALIKE),
        (OptimisedAttention, {"causal": True}, CROSSED),
        (OptimisedAttention, {"use_bias": False} | QUERIES, CROSSED),
        (EfficientAttention, {}, CROSSED),
        (EfficientAttention, {"causal": True}, ALIKE),
        (EfficientAttention, {"use_bias": False} | QUERIES, ALIKE),
        (SuperAttention, {}, CROSSED),
        (SuperAttention, {"causal": True}, ALIKE),
        (SuperAttention, {"use_bias": False} | QUERIES, CROSSED),
        (SoftmaxAttention, QUERIES, CROSSED),
    ],
)
def test_cost_is_what_xla_counts_on_the_dense_path(made, fields, sizes):
    queries, keys, width = sizes
    module = made(num_heads=4, implementation="dense", **fields)
    x, context = (jax.ShapeDtypeStruct((2, n, width), jnp.float32) for n in (queries, keys))
    context = None if queries == keys else context
    variables = jax.eval_shape(lambda x, c: module.init(jax.random.key(0), x, context=c), x, context)

    def call(variables, x, context):
        return module.apply(variables, x, context=context)

    counted = jax.jit(call).lower(variables, x, context).compile().cost_analysis()
    cost = module.cost(queries, keys, width=width, batch=2)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(counted["flops"], rel=0.05)
    assert cost.bytes < counted["bytes accessed"]


def test_parameters_are_the_papers_share_of_softmax_attentions():
    # Length = width, no biases: 4, 3, 2 and 3 matrices of width x width (section 3 of the paper).
    made = SoftmaxAttention, OptimisedAttention, EfficientAttention, functools.partial(SuperAttention, max_length=C)
    counts = [module(num_heads=H, use_bias=False).cost(C, width=C).params for module in made]
    assert counts == [4 * C**2, 3 * C**2, 2 * C**2, 3 * C**2]


@pytest.mark.parametrize("fields", [{"causal": True}, {"softmax_axis": "queries"}])
@pytest.mark.parametrize("made", [OptimisedAttention, EfficientAttention, SuperAttention])
def test_no_matrix_of_weights_is_built(made, fields):
    module, length = made(num_heads=H, **fields), 2048
    x = jax.ShapeDtypeStruct((1, length, C), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, length), jnp.bool_)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def loss(variables, x, mask):
        return module.apply(variables, x, mask).sum()

    found = shapes(jax.make_jaxpr(jax.grad(loss, (0, 1)))(variables, x, mask).jaxpr)
    large = {shape for shape in found if np.prod(shape) >= length**2}
    assert large <= (
        {(length, 1, length), (1, length, length), (1, 1, length, length), (length, length)}
        if made is SuperAttention
        else set()
    )


def shapes(jaxpr):
    """The shapes of all that a program computes, inner programs included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars if hasattr(variable.aval, "shape"))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from shapes(inner)
