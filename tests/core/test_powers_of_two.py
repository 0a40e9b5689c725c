"""Functions evaluated on arrays that are filled up, against the functions themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core.evaluable import looked_up, objection
from jattn.core.powers_of_two import Rows, evaluate, evaluate_by_row, filled, physical

A, B, C = (16, 7), (32, 7), (1, 3)


def arguments(dtype=np.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in (A, B, C)]


def filled_up(x, value):
    """The array that stands for x, with `value` where x has nothing."""
    x = np.asarray(x)
    x = x.reshape(x.shape[next((axis for axis, size in enumerate(x.shape) if size != 1), x.ndim) :])
    return jnp.asarray(np.pad(x, [(0, filled(size) - size) for size in x.shape], constant_values=value))


def part(x, shape):
    """What x stands for."""
    x = np.asarray(x)
    return x[tuple(slice(size) for size in shape[len(shape) - x.ndim :])].reshape(shape)


FUNCTIONS = {
    "product of matrices": lambda a, b, c: a @ b.T,
    "product summed over what is filled up, either way": lambda a, b, c: (a.T @ (a @ b.T), b.T @ b),
    "product of three, by pairs": lambda a, b, c: jnp.einsum("td,sd,tsd->ts", a, b, jnp.cos(a[:, None] - b[None])),
    "product of batches": lambda a, b, c: (
        jnp.einsum("td,te->tde", a, a * 2) + jnp.einsum("td,td->t", a, a)[:, None, None]
    ),
    "outer product": lambda a, b, c: jnp.einsum("td,se->tsde", a, b)[..., None].sum((2, 4)),
    "sums": lambda a, b, c: (a.sum(), a.sum(0), a.sum(1), c.sum(), c.sum(0), c.sum(1, keepdims=True)),
    "largest and smallest": lambda a, b, c: (a.max(1) - 5, a.min(1) + 5, (a * 10).astype(jnp.int32).max(1)),
    "logarithm of a sum": lambda a, b, c: jax.nn.logsumexp(a, axis=1),
    "mean and variance": lambda a, b, c: (a.mean(1), a.var(1)),
    "broadcast": lambda a, b, c: a[:, None] * b[None] + c.sum(),
    "broadcast of a row": lambda a, b, c: (
        (jnp.broadcast_to(c, (5, 3)) + c)[None] + c[:, None, :] * jnp.ones((16, 1, 1))
    ),
    "transposed": lambda a, b, c: (a.T, c.T, a[None].transpose(0, 2, 1), c[:, None].transpose(2, 1, 0)),
    "reshaped by ones": lambda a, b, c: (
        a.reshape(1, 16, 1, 7),
        a.reshape(16, 1, 7)[:, 0],
        c.reshape(3, 1),
        c.reshape(3),
    ),
    "reshaped where nothing is filled up": lambda a, b, c: a.sum(1).reshape(4, 4) + a.sum(1).reshape(2, 8).sum(),
    "positions": lambda a, b, c: jnp.arange(7)[None] * a + jax.lax.broadcasted_iota(jnp.float32, (1, 7), 0),
    "integers": lambda a, b, c: (a * 9).astype(jnp.int32) % 4 + (a * 9).astype(jnp.int32) // 3,
    "choices": lambda a, b, c: jnp.where(a > 0, a, jnp.where(jnp.isfinite(a), 1.0, -jnp.inf)),
    "activations": lambda a, b, c: jax.nn.gelu(a) + jax.nn.silu(a) + jax.nn.softplus(a) + jnp.clip(a, -1, 1) ** 3,
    "a constant and an argument": lambda a, b, c: (jnp.float32(2.0), a),
    "rematerialised": lambda a, b, c: jax.checkpoint(lambda a: jnp.tanh(a).sum(1))(a),
}


@functools.cache
def both(name):
    """The function evaluated on filled arrays, compiled, and what it gives by itself."""
    traced = jax.make_jaxpr(FUNCTIONS[name])(*arguments())
    assert objection(traced) is None
    return jax.jit(lambda *x: evaluate(traced, *x)), jax.tree.leaves(jax.jit(FUNCTIONS[name])(*arguments()))


@pytest.mark.parametrize("filling", [0.0, 3.7, -1e6])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_fills_up_does_not_matter(name, filling):
    if name == "activations" and filling == -1e6:
        filling = -10.0
    evaluated, expected = both(name)
    found = evaluated(*(filled_up(x, filling) for x in arguments()))
    for x, y in zip(found, expected, strict=True):
        assert jnp.shape(x) == physical(y.shape)
        np.testing.assert_allclose(part(x, y.shape), y, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("filling", [0.0, 3.7])
def test_gradients_are_those_of_the_function(filling):
    def f(a, b, c):
        scores = jnp.tanh(a[:, None] + b[None]).max(-1) * c + a @ b.T
        return jax.nn.logsumexp(scores, axis=1).sum()

    a, b, c = *arguments()[:2], jnp.float32(0.3)
    gradient = jax.jit(jax.grad(f, (0, 1, 2)), inline=True)
    traced = jax.make_jaxpr(gradient)(a, b, c)
    assert objection(traced) is None
    found = jax.jit(lambda *x: evaluate(traced, *x))(filled_up(a, filling), filled_up(b, filling), c)
    for x, y in zip(found, gradient(a, b, c), strict=True):
        np.testing.assert_allclose(part(x, y.shape), y, atol=2e-5, rtol=1e-5)


def test_sums_of_a_tile_may_be_left_by_row():
    def f(a, b):
        total = (a @ b.T).sum()
        return a.sum(1), total, -(2 * total + a.sum()) / 3, total * total, jnp.float32(5.0), b.sum()

    a, b, _ = arguments()
    traced = jax.make_jaxpr(f)(a, b)
    evaluated = jax.jit(lambda *x: evaluate_by_row(traced, *x, rows=16))
    rows, *found = jax.device_get(evaluated(filled_up(a, 9.0), filled_up(b, 9.0)))
    expected_rows, *expected = jax.jit(f)(a, b)
    np.testing.assert_allclose(rows, expected_rows, rtol=1e-5)
    for x, y in zip(found, expected, strict=True):
        assert x.shape == (16,)
        np.testing.assert_allclose(x.sum(), y, rtol=1e-4)
    assert np.count_nonzero(found[0]) == 16
    assert [np.count_nonzero(x) for x in found[2:]] == [1, 1, 1]


def test_products_of_matrices_take_the_narrower_type_and_all_else_float32():
    rng = np.random.default_rng(1)
    a, b = (jnp.asarray(rng.normal(size=(16, 17)), jnp.bfloat16) for _ in range(2))
    wide = a.astype(jnp.float32), b.astype(jnp.float32)
    traced = jax.make_jaxpr(lambda a, b: ((a * 1.001) @ b.T, a * 1.001))(*wide)
    product, scaled = evaluate(traced, filled_up(a, 0), filled_up(b, 0))
    assert {product.dtype, scaled.dtype} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(scaled[:, :17], wide[0] * 1.001)
    rounded = (wide[0] * 1.001).astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(product, rounded @ wide[1].T, rtol=1e-5, atol=1e-5)


def test_columns_are_read_where_they_are_looked_up():
    table = jnp.arange(5 * 11.0).reshape(5, 11)
    traced = jax.make_jaxpr(lambda x, index: 2 * jnp.take(x, index + 1, axis=1, mode="clip"))(
        jnp.zeros((4, 11)), jnp.zeros(8, jnp.int32)
    )
    assert looked_up(traced) == {0}
    assert objection(traced) is None
    (found,) = evaluate(traced, Rows(table, jnp.arange(2, 6)), jnp.arange(4, 12))
    np.testing.assert_array_equal(found, 2 * table[jnp.asarray([2, 3, 4, 4])][:, jnp.asarray([*range(5, 11), 10, 10])])
