"""Every implementation against a float64 oracle, value and gradient, on one table of cases."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import Causal, Dot, Dropout, Padding, Window, attend, explain, implementations_taken
from jattn.errors import UserError
from tests.core.cases import CASES, attended, cast, fade, network, tokens

FAST = ["blockwise"]


def divided(call):
    """The parts of a call that have gradients, and the others."""
    smooth, rest = {}, {}
    for name, part in call.items():
        is_smooth = any(jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in jax.tree.leaves(part))
        (smooth if is_smooth and name not in ("mask", "dropout") else rest)[name] = part
    return smooth, rest


def differentiated(rest, implementation):
    """A compiled function of a call's smooth parts: out, lse and the gradients of a weighted sum of both."""

    def loss(smooth):
        out, lse = attend(**smooth, **rest, implementation=implementation)
        rng = np.random.default_rng(9)
        weights = [rng.normal(size=x.shape).astype(x.dtype) for x in (out, lse)]
        total = (out * weights[0]).sum() + jnp.where(lse > -jnp.inf, lse * weights[1], 0).sum()
        return total, (out, lse)

    def run(smooth):
        gradients, values = jax.grad(loss, has_aux=True, allow_int=True)(smooth)
        return values, [g for g in jax.tree.leaves(gradients) if g.dtype != jax.dtypes.float0]

    return jax.jit(run)


def both(call, implementation):
    """out, lse and the gradients of a weighted sum of both with respect to everything that has one."""
    smooth, rest = divided(call)
    return jax.device_get(differentiated(rest, implementation)(smooth))


def agree(found, expected, atol, rtol):
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), atol=atol, rtol=rtol)


def numpy_attention(q, k, v, allowed=True):
    """Softmax attention in float64, a loop over examples, heads and queries. allowed: Bool[B|1 1 T S]."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    allowed = np.broadcast_to(allowed, (len(q), 1, q.shape[2], k.shape[2]))
    out, lse = np.zeros((*q.shape[:3], v.shape[3])), np.full(q.shape[:3], -np.inf)
    for b, h, t in np.ndindex(lse.shape):
        own, head = allowed[b, 0, t], h * k.shape[1] // q.shape[1]
        if own.any():
            scores = k[b, head, own] @ q[b, h, t] / np.sqrt(q.shape[3])
            lse[b, h, t] = np.log(np.exp(scores).sum())
            out[b, h, t] = np.exp(scores - lse[b, h, t]) @ v[b, head, own]
    return out, lse


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("dot", lambda t, s: s < 10**9),
        ("causal window beyond the keys", lambda t, s: (t + 272 - 17 <= s) & (s <= t + 272)),
        ("window, one key head", lambda t, s: (t - 23 <= s) & (s <= t + 5)),
        ("padding, empty rows", None),
    ],
)
def test_dense_is_softmax_attention(name, rule):
    with jax.enable_x64(True):
        call = CASES[name]()
        found = attended(call, "dense")
    q, k, v = call["q"], call["k"]["features"] if isinstance(call["k"], dict) else call["k"], call["v"]
    if rule is None:
        allowed = np.arange(283) < np.asarray([101, 0])[:, None, None, None]
    else:
        allowed = rule(np.arange(q.shape[2])[:, None], np.arange(k.shape[2]))
    agree(found, numpy_attention(q, k, v, allowed), atol=1e-12, rtol=1e-7)


IN_FLOAT32 = "window, one key head", "segments", "learned positional score", "dropout"
"""Plain tokens, and what has riders, parameters or bits of its own. Sizes and reach, in which other cases differ, have
no part in types; empty rows, and a learned bias, have tests of their own in float32 and bfloat16."""


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name, implementation):
    """In float64, and in float32 where types might matter, against dense attention in float64."""
    with jax.enable_x64(True):
        call = cast(CASES[name](), jnp.float64)
        expected = both(call, "dense")
        agree(both(call, implementation), expected, atol=1e-10, rtol=1e-10)
    if name in IN_FLOAT32:
        with jax.default_matmul_precision("float32"):
            agree(both(cast(call, jnp.float32), implementation), expected, atol=2e-5, rtol=1e-4)


SMALL = {"queries": 13, "keys": 17}
OF_ONE_BLOCK = {
    "dot": lambda: tokens(**SMALL),
    "learned score and bias": lambda: {**network(**SMALL), "bias": fade() + Causal(), "offset": 4},
    "nothing within reach": lambda: {**tokens(**SMALL), "bias": Window(left=3, right=0), "offset": 20},
    "dropout": lambda: {**tokens(**SMALL), "dropout": Dropout(0.3, jnp.uint32(11))},
}


@pytest.mark.parametrize("name", OF_ONE_BLOCK)
def test_a_call_of_one_block_takes_no_loop(name):
    """Value and gradient are those of dense; a call of several blocks has loops."""

    def loops(smooth, rest):
        program = str(differentiated(rest, "blockwise").trace(smooth).jaxpr)
        return program.count(" scan[") + program.count(" while[")

    with jax.enable_x64(True):
        call = OF_ONE_BLOCK[name]()
        agree(both(call, "blockwise"), both(call, "dense"), atol=1e-10, rtol=1e-10)
        assert loops(*divided(call)) == 0
        assert loops(*divided(CASES["dot"]())) > 0


def near_in_bfloat16(found, exact):
    """out and lse, against those of float32."""
    (out, lse), (exact, exact_lse) = found, exact
    assert out.dtype == jnp.bfloat16
    assert lse.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=1e-2 * float(np.abs(exact).max()))
    np.testing.assert_allclose(lse, exact_lse, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", ["causal, equal heads", "padding, empty rows", "dropout"])
def test_bfloat16_value(name):
    """Against float32 on the same rounded inputs, relative to the largest output."""
    call = cast(CASES[name](), jnp.bfloat16)
    exact = attended(cast(call, jnp.float32), "dense")
    for implementation in (*FAST, "dense"):
        near_in_bfloat16(attended(call, implementation), exact)


def test_bfloat16_value_and_gradient_of_a_learned_score_and_bias():
    call = cast(CASES["learned score and bias, padding"](), jnp.bfloat16)
    exact, expected = both(cast(call, jnp.float32), "dense")
    for implementation in (*FAST, "dense"):
        values, found = both(call, implementation)
        near_in_bfloat16(values, exact)
        for x, y in zip(found, expected, strict=True):
            assert x.dtype == jnp.bfloat16
            np.testing.assert_allclose(np.asarray(x, np.float32), y, atol=4e-2 * float(np.abs(y).max()))


def test_empty_rows_are_zero_with_zero_gradient():
    call = cast(CASES["padding, empty rows"](), jnp.float32)
    expected = both(call, "dense")
    for implementation in (*FAST, "dense"):
        (out, lse), gradients = found = expected if implementation == "dense" else both(call, implementation)
        agree(found, expected, atol=2e-5, rtol=1e-4)
        np.testing.assert_array_equal(out[1], 0.0)
        np.testing.assert_array_equal(lse[1], -np.inf)
        for gradient in gradients:
            np.testing.assert_array_equal(gradient[1], 0.0)
            assert np.abs(gradient[0]).max() > 0


def test_offset_may_be_traced_and_compiles_once():
    call = cast(tokens(queries=3), jnp.float32)
    t, s = np.arange(3)[:, None], np.arange(283)
    traces = []

    @jax.jit
    def decode(offset):
        traces.append(offset)
        return attend(**call, bias=Causal(), offset=offset)

    for offset in (0, 1, 130, 282):
        agree(decode(offset), numpy_attention(**call, allowed=s <= t + offset), atol=2e-5, rtol=1e-4)
    assert len(traces) == 1


def test_merging_two_calls_by_lse_equals_one():
    call = cast(tokens(keys=2 * 139), jnp.float32)
    q, k, v = (np.asarray(call[name]) for name in "qkv")
    run = jax.jit(attend)
    halves = [jax.device_get(run(q, k[:, :, part], v[:, :, part])) for part in (slice(0, 139), slice(139, None))]
    lse = np.logaddexp(halves[0][1], halves[1][1])
    merged = sum(out * np.exp(part - lse)[..., None] for out, part in halves)
    agree((merged, lse), numpy_attention(q, k, v), atol=2e-5, rtol=0)


def square():
    """As many queries as keys, values as wide as keys: what libraries can do."""
    call = cast(tokens(queries=283), jnp.float32)
    return {**call, "v": jnp.asarray(np.asarray(call["k"]) * 2 + 1)}


def test_xla_equals_dense_where_it_can():
    for bias in (None, Causal() + Window(31, 7)):
        call = square() | {"bias": bias}
        assert "xla" not in explain(**call, implementation="xla").reasons

        def loss(q, k, v, implementation, bias=bias):
            out, lse = attend(q, k, v, bias=bias, implementation=implementation)
            return (out**2).sum(), (out, lse)

        arguments = call["q"], call["k"], call["v"]
        with jax.default_matmul_precision("float32"):
            gradients = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)
            (found, values), (expected, exact) = (gradients(*arguments, name) for name in ("xla", "dense"))
            agree(values, exact, 2e-5, 1e-4)
            agree(found, expected, atol=1e-4, rtol=1e-4)


def test_xla_does_not_hide_that_lse_has_no_gradient():
    call = square()
    with pytest.raises(TypeError, match=r"do not differentiate lse"):
        jax.eval_shape(jax.grad(lambda q: attend(q, call["k"], call["v"], implementation="xla")[1].sum()), call["q"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask": Padding()}, "takes no mask"),
        ({"offset": 3}, "no offset"),
        ({"dropout": Dropout(0.1, 0)}, "another dropout"),
        ({"bias": Causal()}, "as many queries as keys"),
        ({"v": tokens()["v"]}, "values as wide as keys"),
        ({"score": CASES["learned positional score"]()["score"]}, "dot-product scores only"),
        ({"bias": CASES["learned bias"]()["bias"]}, "causal and window"),
    ],
)
def test_an_implementation_that_cannot_serve_says_why(change, reason):
    call = square() | {"q": square()["q"][:, :, :149]}
    call["k"] = {"features": call["k"], "valid": jnp.ones((2, 1, 283), bool)}
    with pytest.raises(UserError, match=reason) as raised:
        attend(**{**call, **change}, implementation="xla")
    assert "these can: blockwise, dense" in str(raised.value)


def test_unknown_implementation_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'blockwise'"):
        attend(**cast(tokens(), jnp.float32), implementation="blockwize")


def test_explain_is_pure_and_speaks_of_all():
    call = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), tokens())
    choice = explain(**call)
    assert choice.implementation == "blockwise"
    assert set(choice.reasons) == {"pallas_gpu", "banded", "dense", "xla", "cudnn"}
    assert "NVIDIA" in choice.reasons["cudnn"]
    assert str(choice).startswith("attention by blockwise (not pallas_gpu: ")
    assert explain(**call, implementation="dense").implementation == "dense"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": jnp.zeros((2, 5, 149, 7))}, "key heads divides"),
        ({"v": jnp.zeros((2, 3, 281, 5))}, "does not fit"),
        ({"q": jnp.zeros((3, 6, 149, 7))}, "does not fit"),
        ({"q": jnp.zeros((2, 6))}, "have axes"),
        ({"q": {}}, "at least one array"),
        ({"bias": dataclasses.replace(CASES["learned bias"]()["bias"], span=jnp.ones(4))}, "lead with an axis"),
    ],
)
def test_shapes_that_do_not_fit_raise(change, message):
    with pytest.raises(ValueError, match=message):
        attend(**{**cast(tokens(), jnp.float32), **change})


def test_implementations_taken_are_those_of_the_calls_within():
    call = cast(tokens(), jnp.float32)
    with implementations_taken() as taken:
        explain(**call)
        for name in (None, "dense"):
            jax.eval_shape(functools.partial(attend, implementation=name), call["q"], call["k"], call["v"])
    jax.eval_shape(attend, call["q"], call["k"], call["v"])
    assert taken == ["blockwise", "dense"]


def test_scale_of_dot_is_an_option():
    call = cast(tokens(), jnp.float32)
    doubled = {**call, "q": np.asarray(call["q"]) * 2}
    agree(attended({**call, "score": Dot(scale=2 * 7**-0.5)}), numpy_attention(**doubled), atol=2e-5, rtol=1e-4)
