"""Every implementation against a float64 oracle, value and gradient, on one table of cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import Causal, Dot, Dropout, Padding, Window, attend, explain
from jattn.errors import UserError
from tests.core.cases import CASES, attended, cast, tokens

FAST = ["blockwise"]


def both(call, implementation):
    """out, lse and the gradients of a weighted sum of both with respect to everything that has one."""
    smooth, rest = {}, {}
    for name, part in call.items():
        is_smooth = any(jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in jax.tree.leaves(part))
        (smooth if is_smooth and name not in ("mask", "dropout") else rest)[name] = part

    def loss(smooth):
        out, lse = attend(**smooth, **rest, implementation=implementation)
        rng = np.random.default_rng(9)
        weights = [jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in (out, lse)]
        total = (out * weights[0]).sum() + jnp.where(lse > -jnp.inf, lse * weights[1], 0).sum()
        return total, (out, lse)

    def run(smooth):
        gradients, values = jax.grad(loss, has_aux=True, allow_int=True)(smooth)
        return values, [g for g in jax.tree.leaves(gradients) if g.dtype != jax.dtypes.float0]

    return jax.jit(run)(smooth)


@pytest.fixture(params=CASES, scope="module")
def oracle(request):
    """A case, and what dense attention makes of it in float64."""
    with jax.enable_x64(True):
        call = CASES[request.param]()
        return request.param, cast(call, jnp.float64), both(cast(call, jnp.float64), "dense")


def agree(found, expected, atol, rtol):
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), atol=atol, rtol=rtol)


def numpy_attention(q, k, v, allowed):
    """Softmax attention of one head in float64, a loop over queries."""
    out, lse = np.zeros((q.shape[0], v.shape[1])), np.full(q.shape[0], -np.inf)
    for t in range(q.shape[0]):
        scores = k[allowed[t]] @ q[t] / np.sqrt(q.shape[1])
        if scores.size:
            lse[t] = np.log(np.exp(scores).sum())
            out[t] = np.exp(scores - lse[t]) @ v[allowed[t]]
    return out, lse


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("dot", lambda t, s: s < 10**9),
        ("causal, more keys, offset", lambda t, s: s <= t + 134),
        ("window", lambda t, s: (t - 23 <= s) & (s <= t + 5)),
        ("padding, empty rows", None),
    ],
)
def test_dense_is_softmax_attention(name, rule):
    with jax.enable_x64(True):
        call = CASES[name]()
        out, lse = attended(call, "dense")
    k = call["k"]["features"] if isinstance(call["k"], dict) else call["k"]
    queries, k, values = (np.asarray(x) for x in (call["q"], k, call["v"]))
    for b in range(2):
        for h in range(6):
            q = queries[b, h]
            if rule is None:
                allowed = np.broadcast_to(np.arange(283) < (101, 0)[b], (len(q), 283))
            else:
                allowed = np.broadcast_to(rule(np.arange(len(q))[:, None], np.arange(k.shape[2])), (len(q), k.shape[2]))
            expected = numpy_attention(q, k[b, h // 2], values[b, h // 2], allowed)
            np.testing.assert_allclose(out[b, h], expected[0], atol=1e-12)
            np.testing.assert_allclose(lse[b, h], expected[1], atol=1e-12)


@pytest.mark.parametrize("implementation", FAST)
def test_float64_value_and_gradient(oracle, implementation):
    _, call, expected = oracle
    with jax.enable_x64(True):
        agree(both(call, implementation), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("implementation", FAST)
def test_float32_value_and_gradient(oracle, implementation):
    _, call, expected = oracle
    with jax.default_matmul_precision("float32"):
        agree(both(cast(call, jnp.float32), implementation), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", [*FAST, "dense"])
@pytest.mark.parametrize("name", ["causal", "padding, empty rows", "learned score and bias, padding", "dropout"])
def test_bfloat16_value(name, implementation):
    """Against float32 on the same rounded inputs, relative to the largest output."""
    call = cast(CASES[name](), jnp.bfloat16)
    out, lse = attended(call, implementation)
    exact, exact_lse = attended(cast(call, jnp.float32), "dense")
    assert out.dtype == jnp.bfloat16
    assert lse.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=1e-2 * float(np.abs(exact).max()))
    np.testing.assert_allclose(lse, exact_lse, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("implementation", FAST)
def test_bfloat16_gradient_of_a_learned_bias(implementation):
    call = cast(CASES["learned score and bias, padding"](), jnp.bfloat16)
    (_, found), (_, expected) = both(call, implementation), both(cast(call, jnp.float32), "dense")
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(x, np.float32), y, atol=4e-2 * float(np.abs(y).max()))


def test_empty_rows_are_zero_with_zero_gradient():
    call = cast(CASES["padding, empty rows"](), jnp.float32)
    for implementation in (*FAST, "dense"):
        (out, lse), gradients = jax.device_get(both(call, implementation))
        np.testing.assert_array_equal(out[1], 0.0)
        np.testing.assert_array_equal(lse[1], -np.inf)
        for gradient in gradients:
            np.testing.assert_array_equal(gradient[1], 0.0)
            assert np.abs(gradient[0]).max() > 0


def test_offset_may_be_traced_and_compiles_once():
    call = cast(tokens(queries=3), jnp.float32)
    traces = []

    @jax.jit
    def decode(offset):
        traces.append(offset)
        return attend(**call, bias=Causal(), offset=offset)

    for offset in (0, 1, 130, 282):
        expected = attended({**call, "bias": Causal(), "offset": offset}, "dense")
        agree(decode(offset), expected, atol=2e-5, rtol=1e-4)
    assert len(traces) == 1


def test_merging_two_calls_by_lse_equals_one():
    call = cast(tokens(), jnp.float32)
    whole, whole_lse = attended(call)
    halves = [
        attended({"q": call["q"]} | {name: np.asarray(call[name])[:, :, part] for name in "kv"})
        for part in (slice(0, 97), slice(97, None))
    ]
    lse = np.logaddexp(halves[0][1], halves[1][1])
    merged = sum(out * np.exp(part - lse)[..., None] for out, part in halves)
    np.testing.assert_allclose(merged, whole, atol=2e-5)
    np.testing.assert_allclose(lse, whole_lse, atol=2e-5)


def square():
    """As many queries as keys, values as wide as keys: what libraries can do."""
    call = cast(tokens(queries=283), jnp.float32)
    return {**call, "v": jnp.asarray(np.asarray(call["k"]) * 2 + 1)}


def test_xla_equals_dense_where_it_can():
    for bias in (None, Causal() + Window(31, 7)):
        call = square() | {"bias": bias}
        assert "xla" not in explain(**call, implementation="xla").reasons

        def loss(q, k, v, implementation, bias=bias):
            return (attend(q, k, v, bias=bias, implementation=implementation)[0] ** 2).sum()

        arguments = call["q"], call["k"], call["v"]
        with jax.default_matmul_precision("float32"):
            agree(attended(call, "xla"), attended(call, "dense"), 2e-5, 1e-4)
            gradients = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
            found, expected = (gradients(*arguments, name) for name in ("xla", "dense"))
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


def test_scale_of_dot_is_an_option():
    call = cast(tokens(), jnp.float32)
    doubled = {**call, "q": np.asarray(call["q"]) * 2}
    agree(attended({**call, "score": Dot(scale=2 * 7**-0.5)}), attended(doubled), atol=2e-5, rtol=1e-4)
