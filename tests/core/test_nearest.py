"""Nearest keys against a full sort in NumPy, and what selection may not do: build the (T, S) matrix."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import (
    Allowed,
    Causal,
    Distance,
    Dot,
    NotAfter,
    NotOwn,
    Padding,
    attend,
    best,
    gather,
    nearest,
    root,
    score_matrix,
)
from jattn.core.nearest import FEW

B, H, T, S, D = 2, 3, 7, 11, 5
gather_heads = jax.vmap(jax.vmap(gather))


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def expected(scores, allowed, count):
    """Indices of the largest allowed scores, best first, -1 where there is none."""
    hidden = np.where(allowed, scores, -np.inf)
    order = np.argsort(-hidden, -1, kind="stable")[..., :count]
    order = np.where(np.take_along_axis(np.broadcast_to(allowed, scores.shape), order, -1), order, -1)
    return np.pad(order, [(0, 0)] * 3 + [(0, count - order.shape[-1])], constant_values=-1)


def found(result):
    return np.where(result.found, result.index, -1)


def distances(q, k):
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    return np.sqrt(((q[..., :, None, :] - k[..., None, :, :]) ** 2).sum(-1))


@pytest.mark.parametrize("count", [1, 3, S, S + 2])
@pytest.mark.parametrize("score", ["dot", "distance"])
def test_nearest_are_the_first_of_a_full_sort(count, score):
    q, k = tokens(B, H, T, D), tokens(B, H, S, D, seed=1)
    valid = np.arange(S)[None] != np.array([[0], [4]])
    if score == "dot":
        scores, measure = 0.5 * np.einsum("bhtd,bhsd->bhts", q, k), Dot(0.5)
    else:
        scores, measure = -distances(q, k), Distance()
    keys = {"features": k, "valid": jnp.asarray(valid)[:, None]}
    result = jax.jit(lambda q, k: nearest(q, k, count, score=measure, mask=Padding()))(q, keys)
    np.testing.assert_array_equal(found(result), expected(scores, valid[:, None, None], count))


@pytest.mark.parametrize("length", [131, 257])
def test_blocks_of_queries_make_no_difference(length):
    q, k = tokens(1, 2, length, D), tokens(1, 2, length, D, seed=1)
    result = jax.jit(lambda q, k: nearest(q, k, 4, score=Dot(1.0), bias=Causal()))(q, k)
    scores = np.einsum("bhtd,bhsd->bhts", q, k)
    np.testing.assert_array_equal(found(result), expected(scores, np.tril(np.ones((length, length), bool)), 4))


def test_places_say_what_is_past_and_what_is_own():
    # Keys 0 to 3 are the tokens 5, 0, 3, 2; queries 0 and 1 the tokens 2 and 3.
    features = {"features": jnp.ones((1, 1, 4, 1)), "place": jnp.asarray([[[5, 0, 3, 2]]])}
    rows = {"features": jnp.ones((1, 1, 2, 1)), "place": jnp.asarray([[[2, 3]]])}
    masks = NotAfter(), NotOwn(), NotAfter() & NotOwn()
    past, others, both = jax.jit(lambda q, k: [nearest(q, k, 3, mask=mask) for mask in masks])(rows, features)
    assert found(past)[0, 0].tolist() == [[1, 3, -1], [1, 2, 3]]
    assert found(others)[0, 0].tolist() == [[0, 1, 2], [0, 1, 3]]
    assert found(both)[0, 0].tolist() == [[1, -1, -1], [1, 3, -1]]


def test_masks_of_pairs_hide_pairs():
    allowed = np.random.default_rng(2).random((B, 1, T, S)) < 0.4
    q = {"features": tokens(B, H, T, D), "allowed": jnp.asarray(allowed)}
    k = tokens(B, H, S, D, seed=1)
    scores = np.einsum("bhtd,bhsd->bhts", q["features"], k)
    result = jax.jit(lambda q, k: nearest(q, k, 4, score=Dot(1.0), mask=Allowed()))(q, k)
    np.testing.assert_array_equal(found(result), expected(scores, allowed, 4))


@pytest.mark.parametrize(("keys", "count"), [(FEW, 5), (FEW + 1, 5), (FEW, 0)], ids=["by passes", "by top_k", "none"])
def test_best_with_ties_and_keys_that_are_none(keys, count):
    values = np.random.default_rng(0).integers(0, 4, (2, 50, keys)).astype(np.float32)
    values[0, :20, 3:] = -np.inf
    index, found = jax.jit(best, static_argnums=1)(values, count)
    order = np.argsort(-values, -1, kind="stable")[..., :count]
    real = np.take_along_axis(values, order, -1) > -np.inf
    np.testing.assert_array_equal(found, real)
    np.testing.assert_array_equal(np.where(found, index, -1), np.where(real, order, -1))


def test_nan_is_never_preferred_but_is_a_key():
    index, present = jax.jit(best, static_argnums=1)(np.float32([[np.nan, 2.0, -np.inf, 3.0, -3e38]]), 5)
    assert index[0].tolist()[:4] == [3, 1, 4, 0]
    assert present[0].tolist() == [True, True, True, True, False]


def test_gathered_values_and_their_gradient():
    x, index = tokens(B, H, S, D), jnp.asarray(np.random.default_rng(3).integers(0, S, (B, H, T, 2)))
    cotangent = tokens(B, H, T, 2, D, seed=4)

    @jax.jit
    def with_gradient(x, cotangent):
        values, pull = jax.vjp(lambda x: gather_heads(x, index), x)
        return values, *pull(cotangent)

    values, slope = with_gradient(x, cotangent)
    rows, heads = np.arange(B)[:, None, None, None], np.arange(H)[None, :, None, None]
    np.testing.assert_array_equal(values, np.asarray(x)[rows, heads, index])
    gradient = np.zeros(x.shape)
    np.add.at(gradient, (rows, heads, np.asarray(index)), np.asarray(cotangent))
    np.testing.assert_allclose(slope, gradient, atol=1e-6)


def test_the_matrix_of_scores():
    q, k = tokens(B, H, T, D), tokens(B, H, S, D, seed=1)
    matrices = jax.jit(lambda q, k: [score_matrix(q, k, score=Distance(), bias=bias) for bias in (None, Causal())])
    plain, hidden = (np.asarray(matrix) for matrix in matrices(q, k))
    np.testing.assert_allclose(plain, -distances(q, k), atol=1e-5)
    np.testing.assert_array_equal(hidden == -jnp.inf, np.broadcast_to(~np.tri(T, S, dtype=bool), hidden.shape))


def test_a_distance_of_zero_has_gradient_zero_only_when_guarded():
    x = tokens(1, 1, 3, D)

    def total(x, guarded):
        return jnp.sum(score_matrix(x, x, score=Distance(guarded=guarded)))

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    assert np.all(np.isfinite(gradient(x, True)))
    assert np.any(np.isnan(gradient(jnp.zeros_like(x), False)))
    of_root = jax.jit(jax.grad(lambda x: jnp.sum(root(x))))
    np.testing.assert_array_equal(of_root(np.float32([-1, 0, 4])), [0, 0, 0.25])


def test_attention_by_distance_is_differentiated_by_blocks():
    q, k, v = (tokens(1, 2, n, D, seed=n) for n in (T, S, S))

    def loss(q, k, implementation):
        return jnp.sum(attend(q, k, v, score=Distance(), implementation=implementation)[0] ** 2)

    gradients = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    ours, theirs = (gradients(q, k, name) for name in ("blockwise", "dense"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), ours, theirs)


def sizes(jaxpr):
    """Numbers of elements of all arrays that a computation makes."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)


def test_no_matrix_is_built():
    length, count = 1024, 3

    def train(q, k, v):
        index = nearest(q, k, count, bias=Causal()).index
        return jnp.sum(gather_heads(k, index) * q[..., None, :] + gather_heads(v, index))

    shape = jax.ShapeDtypeStruct((1, 2, length, D), jnp.float32)
    largest = max(sizes(jax.make_jaxpr(jax.grad(train, (0, 1, 2)))(shape, shape, shape).jaxpr))
    assert largest <= 2 * 128 * length  # the scores of one block of queries
