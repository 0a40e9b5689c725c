"""The score that is a network, against its equation on concatenated features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import MLP, Causal, attend

B, H, T, S, E = 2, 3, 149, 163, 5
SIZES = (7, 5, 3)  # units of the first layer, of the second, of the third


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def network(heads, sizes=SIZES):
    shapes = list(zip(sizes, (*sizes[1:], 1), strict=True))
    kernels = [random(i, heads, *shape) for i, shape in enumerate(shapes)]
    return MLP.of(kernels, [random(9 + i, heads, shape[1]) for i, shape in enumerate(shapes)]), kernels


def rows(seed, count, tokens, heads=H):
    return tuple(random(seed + i, B, heads, tokens) for i in range(count))


@pytest.mark.parametrize("sizes", [(7, 5, 3), (4, 1), (1, 4), (3,)])
def test_scores_are_those_of_the_network_on_concatenated_tokens(sizes):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(11, 6)), rng.normal(size=(13, 6))
    layers = [(rng.normal(size=(12, sizes[0])), rng.normal(size=sizes[0]))]
    layers += [(rng.normal(size=s), rng.normal(size=s[1])) for s in zip(sizes, (*sizes[1:], 1), strict=True)]
    x = np.concatenate([np.repeat(a[:, None], 13, 1), np.repeat(b[None], 11, 0)], -1)
    for kernel, bias in layers[:-1]:
        x = np.maximum(x @ kernel + bias, 0)
    expected = (x @ layers[-1][0] + layers[-1][1])[..., 0]

    (first, first_bias), *others = layers
    q, k = a @ first[:6] + first_bias, b @ first[6:]
    score = MLP.of([jnp.asarray(w[None]) for w, _ in others], [jnp.asarray(c[None]) for _, c in others])
    one_head = jax.tree.map(lambda leaf: leaf[0], score)
    found = one_head(tuple(jnp.asarray(q.T)), tuple(jnp.asarray(k.T)), jnp.arange(11), jnp.arange(13))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, H])
def test_blockwise_agrees_with_dense(heads):
    score, _ = network(heads, (3, 2))
    arguments = score, rows(20, 3, T), rows(40, 3, S), random(60, B, H, S, E)
    cotangent = random(61, B, H, T, E)

    def gradients(implementation):
        def call(score, q, k, v):
            out, lse = attend(q, k, v, score=score, bias=Causal(), offset=S - T, implementation=implementation)
            return jnp.sum(out * cotangent) + jnp.sum(jnp.sin(lse)), out

        return jax.jit(jax.grad(call, argnums=(0, 1, 2, 3), has_aux=True))(*arguments)

    found, expected = gradients("blockwise"), gradients("dense")
    assert all(leaf.shape == (heads,) for leaf in jax.tree.leaves(found[0][0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), found, expected)


def test_a_network_without_units_scores_every_pair_alike():
    score = MLP.of([jnp.zeros((1, 2, 0)), jnp.zeros((1, 0, 1))], [jnp.zeros((1, 0)), jnp.full((1, 1), 3.0)])
    one_head = jax.tree.map(lambda leaf: leaf[0], score)
    tokens = (jnp.ones(5), jnp.ones(5))
    np.testing.assert_array_equal(one_head(tokens, tokens, jnp.arange(5), jnp.arange(5)), np.full((5, 5), 3.0))


def test_features_of_low_precision_are_scored_in_float32():
    score, _ = network(1)
    q, k = (jax.ShapeDtypeStruct((n,), jnp.bfloat16) for n in (11, 13))
    one_head = jax.tree.map(lambda leaf: leaf[0].astype(jnp.bfloat16), score)
    found = jax.eval_shape(one_head, (q,) * SIZES[0], (k,) * SIZES[0], jnp.arange(11), jnp.arange(13))
    assert (found.shape, found.dtype) == ((11, 13), jnp.float32)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        inner = [value for value in equation.params.values() if hasattr(value, "jaxpr")]
        yield from (e for value in inner for e in equations(value.jaxpr)) if inner else (equation,)


def test_a_fused_kernel_can_trace_score_and_derivative():
    """Rows, planes and scalars: nothing is sliced, gathered or multiplied as matrices, nothing has three axes."""
    score = jax.tree.map(lambda leaf: leaf[0], network(1)[0])
    q, k = (tuple(jnp.ones(n) for _ in range(SIZES[0])) for n in (11, 13))

    def call(score, q, k, cotangent):
        out, pull = jax.vjp(lambda *args: score_of(*args), score, q, k)
        return out, pull(cotangent)

    def score_of(score, q, k):
        return score(q, k, jnp.arange(11), jnp.arange(13))

    found = list(equations(jax.make_jaxpr(call)(score, q, k, jnp.ones((11, 13))).jaxpr))
    names = {equation.primitive.name for equation in found}
    assert {"add", "mul"} <= names
    assert not names & {"slice", "dynamic_slice", "gather", "dot_general", "concatenate", "pad", "transpose"}
    assert max(out.aval.ndim for equation in found for out in equation.outvars) == 2


def test_layers_that_do_not_fit_are_refused():
    one, two = jnp.zeros((1, 4, 2)), jnp.zeros((1, 3, 1))
    with pytest.raises(
        ValueError, match=r"kernels of \(inputs, outputs\) \[\(4, 2\), \(3, 1\)\] with biases of \[2, 1\]"
    ):
        MLP.of([one, two], [jnp.zeros((1, 2)), jnp.zeros((1, 1))])
    with pytest.raises(ValueError, match="do not make a network with one output"):
        MLP.of([one], [jnp.zeros((1, 2))])
    with pytest.raises(ValueError, match="with biases of \\[3\\]"):
        MLP.of([two], [jnp.zeros((1, 3))])
    with pytest.raises(ValueError, match="do not make a network"):
        MLP.of([], [])
