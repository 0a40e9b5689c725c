"""`stored` is the identity, bit for bit and in every derivative, and the compiler computes what it stores once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import stored


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_values_are_kept_bit_for_bit(dtype):
    limits = jnp.finfo(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, limits.max, limits.tiny, 1 + limits.eps]
    x = jnp.concatenate([jnp.asarray(special, dtype), jax.random.normal(jax.random.key(0), (97,), dtype)])
    found = jax.jit(stored)(x)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(found).view(np.uint8), np.asarray(x).view(np.uint8))


def test_derivatives_are_those_of_the_identity():
    x, t = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)

    def cubed(x):
        return jnp.sum(stored(stored(x) ** 3))

    @jax.jit
    def derivatives(x, t):
        slope = jax.grad(cubed)
        of_each = jax.vmap(slope)(x[:, None])[:, 0]
        return (
            (slope(x), of_each, jax.grad(jax.checkpoint(cubed))(x)),
            jax.jvp(cubed, (x,), (t,))[1],
            jax.hessian(cubed)(x),
        )

    first, pushed, second = derivatives(x, t)
    for slope in first:
        np.testing.assert_allclose(slope, 3 * x**2, rtol=1e-6)
    np.testing.assert_allclose(pushed, np.sum(3 * x**2 * t), rtol=1e-6)
    np.testing.assert_allclose(second, np.diag(6 * x), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="counts operations of the compiler for CPUs")
@pytest.mark.parametrize(("keep", "computed"), [(stored, 1), (lambda x: x, 2)])
def test_what_two_operations_read_is_computed_once(keep, computed):
    def program(x):
        y = keep(jnp.abs(x + 1))
        return y[1:], y.T

    text = jax.jit(program).lower(jnp.ones((96, 64))).compile().as_text()
    assert len(re.findall(r" abs\(", text)) == computed
