"""Which derivatives the fast path has, and the sentence in place of those it lacks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import Causal, attend
from tests.core.cases import CASES, cast, tokens


@pytest.fixture(scope="module")
def call():
    return cast(tokens(queries=131, keys=131, key_heads=6), jnp.float32)


def loss(q, k, v, implementation=None):
    out, lse = attend(q, k, v, bias=Causal(), implementation=implementation)
    return (out**2).sum() + jnp.sin(lse).sum()


def test_per_example_gradients(call):
    one = jax.grad(lambda q, k, v: loss(q[None], k[None], v[None]))
    all_of_them = jax.grad(functools.partial(loss, implementation="dense"))
    each, whole = (jax.jit(f)(call["q"], call["k"], call["v"]) for f in (jax.vmap(one), all_of_them))
    np.testing.assert_allclose(each, whole, atol=2e-5, rtol=1e-4)


def test_forward_over_reverse_equals_dense(call):
    tangent = np.cos(np.asarray(call["q"]) * 3)

    def product(implementation):
        gradient = jax.grad(functools.partial(loss, implementation=implementation))
        return jax.jit(lambda q, t: jax.jvp(lambda q: gradient(q, call["k"], call["v"]), (q,), (t,))[1])(
            call["q"], tangent
        )

    np.testing.assert_allclose(product("blockwise"), product("dense"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_forward_mode_raises_a_sentence(call, transform):
    f = transform(lambda q: loss(q, call["k"], call["v"]))
    with pytest.raises(Exception, match=r"forward-mode .* does not exist: .*implementation=\"dense\""):
        jax.jvp(f, (call["q"],), (call["q"],))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_reverse_over_reverse_raises_a_sentence(call, transform):
    f = transform(lambda q: (jax.grad(loss)(q, call["k"], call["v"]) ** 2).sum())
    with pytest.raises(Exception, match=r"reverse-over-reverse .* does not exist: .*implementation=\"dense\""):
        jax.eval_shape(jax.grad(f), call["q"])  # abstract: the sentence comes before there are numbers


def test_dense_has_every_derivative(call):
    f = functools.partial(loss, k=call["k"], v=call["v"], implementation="dense")

    @jax.jit
    def derivatives(q):
        gradient = jax.grad(f)(q)
        twice = jax.grad(lambda q: (jax.grad(f)(q) ** 2).sum())(q)
        return gradient, jax.jvp(f, (q,), (q,))[1], twice, jax.jvp(jax.grad(f), (q,), (2 * gradient,))[1]

    gradient, slope, twice, once = derivatives(call["q"])
    np.testing.assert_allclose(slope, np.vdot(gradient, call["q"]), rtol=1e-4)
    np.testing.assert_allclose(twice, once, atol=1e-4, rtol=1e-3)


def loops(traced):
    """Number of loops with traced bounds in the traced program (compilation would merge equal ones)."""
    return str(traced.jaxpr).count("while[")


def test_remat_can_keep_the_output_instead_of_running_the_loop_again(call):
    arguments = call["q"], call["k"], call["v"]

    def gradient(wrap):
        return jax.jit(jax.grad(wrap(lambda *a: loss(*a) ** 2))).trace(*arguments)

    keep = jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse")
    plain = gradient(lambda f: f)
    keeping, recomputing = (
        gradient(functools.partial(jax.checkpoint, policy=policy))
        for policy in (keep, jax.checkpoint_policies.nothing_saveable)
    )
    assert loops(keeping) == loops(plain) < loops(recomputing)
    found, expected = (traced.lower().compile()(*arguments) for traced in (keeping, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_integer_and_boolean_riders_are_not_differentiated():
    call = cast(CASES["segments"](), jnp.float32)

    def f(features):
        q = {**call["q"], "features": features}
        return (attend(**{**call, "q": q})[0] ** 2).sum()

    gradient = np.asarray(jax.jit(jax.grad(f))(call["q"]["features"]))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
