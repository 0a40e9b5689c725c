"""Softmax over the queries against the matrix of weights, built."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import core

B, H, T, S, D, E = 2, 3, 149, 131, 5, 7  # both lengths take two blocks


def numbers(*shape, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


Q, K, V = numbers(B, H, T, D, seed=0), numbers(B, H, S, D, seed=1), numbers(B, H, S, E, seed=2)
COTANGENT = numbers(B, H, T, E, seed=3)
REAL_QUERIES = np.arange(T) % 7 != np.asarray([[2], [3]])
REAL_KEYS = np.arange(S) % 5 != np.asarray([[1], [4]])
ALLOWED = {
    "all": np.ones((B, T, S), bool),
    "padding": REAL_QUERIES[:, :, None] & REAL_KEYS[:, None],
    "no query": np.zeros((B, T, S), bool),
}


def weights(q, k, allowed):
    """The equation: columns sum to 1 over the allowed queries, and are zero without one."""
    score = jnp.where(allowed[:, None], jnp.einsum("bhtd,bhsd->bhts", q, k) * D**-0.5, -jnp.inf)
    largest = jnp.max(score, axis=2, keepdims=True)
    shares = jnp.exp(score - jnp.where(jnp.isfinite(largest), largest, 0.0))
    return shares / jnp.maximum(shares.sum(2, keepdims=True), 1e-30)


def attended(q, k, v, allowed, dropout=None, implementation=None):
    """The same through the core."""
    mask = core.Allowed()
    q = {"features": q, "allowed": allowed[:, None]}
    k, score = core.over_queries(q, k, score=core.Dot(), mask=mask, implementation=implementation)
    out, lse = core.attend(q, k, v, score=score, mask=mask, dropout=dropout, implementation=implementation)
    return out * jnp.exp(lse)[..., None]


def multiplied(q, k, v, allowed):
    """The same by the matrix."""
    return jnp.einsum("bhts,bhse->bhte", weights(q, k, allowed), v)


@pytest.mark.parametrize("implementation", ["blockwise", "dense"])
def test_value_and_gradients_are_those_of_the_matrix(implementation):
    @functools.partial(jax.jit, static_argnums=0)
    def both(function, allowed):
        out, pull = jax.vjp(lambda *arrays: function(*arrays, allowed), Q, K, V)
        return out, pull(COTANGENT)

    ours = functools.partial(attended, implementation=implementation)
    for name, allowed in ALLOWED.items():
        found, expected = both(ours, allowed), both(multiplied, allowed)
        of_case = functools.partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-4, err_msg=name)
        jax.tree.map(of_case, found, expected)


def test_large_scores_do_not_overflow():
    large = 10 * np.asarray(Q), 10 * np.asarray(K)
    expected = np.einsum("bhts,bhse->bhte", jax.jit(weights)(*large, ALLOWED["padding"]), V)
    found = jax.jit(attended)(*large, V, ALLOWED["padding"])
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)  # scores of some hundreds, in float32
    assert np.isfinite(found).all()


def test_dropout_acts_on_the_weights():
    dropout, whole = core.Dropout(0.3, jnp.uint32(5)), np.asarray(jax.jit(weights)(Q, K, ALLOWED["all"]))
    identity = np.broadcast_to(np.eye(S, dtype=np.float32), (B, H, S, S))
    found = np.asarray(jax.jit(functools.partial(attended, dropout=dropout))(Q, K, identity, ALLOWED["all"]))
    kept = found != 0
    np.testing.assert_allclose(kept.mean(), 0.7, atol=0.01)
    np.testing.assert_allclose(found, np.where(kept, whole / 0.7, 0), atol=1e-6, rtol=1e-4)


def test_a_score_and_a_mask_are_transposed_by_exchange():
    q_pos, k_pos = jnp.arange(4), jnp.arange(6)
    q, k = {"features": Q[0, 0, :4], "valid": q_pos != 1}, {"features": K[0, 0, :6], "valid": k_pos != 2}
    score, mask = core.Dot(), core.Padding()
    np.testing.assert_allclose(core.Exchanged(score)(k, q, k_pos, q_pos), score(q, k, q_pos, k_pos).T, atol=1e-6)
    # Of a query's own validity: rows, where the mask itself has columns.
    expected = np.broadcast_to((q_pos != 1)[:, None], (4, 6))
    np.testing.assert_array_equal(core.Exchanged(mask)(q, k, q_pos, k_pos), expected)


def test_the_matrix_is_not_built():
    def scratch(length, implementation):
        def train(q, k, v, cotangent):
            def call(q, k, v):
                shared = {"implementation": implementation}
                k, score = core.over_queries(q, k, score=core.Dot(), **shared)
                out, lse = core.attend(q, k, v, score=score, **shared)
                return out * jnp.exp(lse)[..., None]

            out, pull = jax.vjp(call, q, k, v)
            return out, pull(cotangent)

        x = jax.ShapeDtypeStruct((1, 4, length, 16), jnp.float32)
        return jax.jit(train).lower(x, x, x, x).compile().memory_analysis().temp_size_in_bytes

    matrix = 4 * 4096**2 * 4
    assert scratch(4096, "blockwise") < matrix / 8
    assert scratch(4096, "dense") > matrix
