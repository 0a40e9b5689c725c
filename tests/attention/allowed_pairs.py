"""Softmax attention to given pairs, in NumPy from the equation: the oracle of mechanisms that are patterns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jattn.core import SPARSE
from tests import calls


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def attention(params, x, allowed, scale=None):
    """Output (B, T, C), weights (B, H, T, S) and scores, in float64. allowed: bool (B, T, S)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nn.unbox(params))
    x = np.asarray(x, np.float64)

    def project(name):
        heads = np.einsum("btc,chd->bhtd", x, params[name]["kernel"])
        return heads + params[name]["bias"][:, None] if "bias" in params[name] else heads

    q, k, v = project("query"), project("key"), project("value")
    scores = (q.shape[-1] ** -0.5 if scale is None else scale) * np.einsum("bhtd,bhsd->bhts", q, k)
    numerators = np.where(allowed[:, None], np.exp(scores), 0.0)
    weights = numerators / np.maximum(numerators.sum(-1, keepdims=True), 1e-300)
    y = np.einsum("bhts,bhsd,hdc->btc", weights, v, params["out"]["kernel"])
    return y + params["out"].get("bias", 0.0), weights, scores


def check(module, variables, x, mask, allowed, scale=None):
    """Output, weights, energy and statistics of a module are those of the equation."""
    y, weights, scores = attention(variables["params"], x, allowed, scale)

    @jax.jit
    def call(variables, x, mask):
        return module.apply(variables, x, mask, mutable=["energies", "intermediates"])

    found, sown = call(variables, x, mask)
    real = np.ones(x.shape[:2], bool) if mask is None else np.asarray(mask) != 0
    np.testing.assert_allclose(np.where(real[..., None], found, 0), np.where(real[..., None], y, 0), atol=2e-5)
    np.testing.assert_allclose(_of_real(sown["intermediates"]["weights"][0], real), _of_real(weights, real), atol=2e-6)
    pairs = np.broadcast_to((allowed & real[..., None])[:, None], scores.shape)
    np.testing.assert_allclose(sown["energies"]["energy"][0], np.abs(scores)[pairs].mean(), rtol=1e-5)
    rows, places = sown["intermediates"]["statistics"][0], np.arange(x.shape[1])
    distance = np.sum(weights * np.abs(places[:, None] - places), -1)
    np.testing.assert_allclose(_of_real(rows.distance, real), _of_real(distance, real), atol=2e-5)
    np.testing.assert_allclose(_of_real(rows.first, real), _of_real(weights[..., 0], real), atol=2e-6)
    np.testing.assert_array_equal(_of_real(rows.pairs, real), _of_real(pairs.sum(-1), real))
    # What a mechanism's window hides is among the keys that get no share.
    visible = np.broadcast_to(real[:, None], (*real.shape, x.shape[1]))
    if mask is not None:
        visible = visible & (np.asarray(mask)[:, :, None] == np.asarray(mask)[:, None])
    if module.causal:
        visible = np.tril(visible)
    visible = np.maximum(visible.sum(-1), 1)[:, None]
    sparsity = 1 - (weights >= SPARSE / visible[..., None]).sum(-1) / visible
    sparsity = np.where(pairs.any(-1), sparsity, 0)
    np.testing.assert_allclose(_of_real(rows.sparsity, real), _of_real(sparsity, real), atol=1e-6)


def _of_real(rows, real):
    return np.where(np.expand_dims(real[:, None], tuple(range(3, np.ndim(rows)))), rows, 0)


def decoded(module, variables, x):
    """The outputs of decoding x token by token."""
    decoder = module.clone(decode=True)

    def step(cache, token):
        y, updated = decoder.apply({**variables, "cache": cache}, token[:, None], mutable=["cache"])
        return updated["cache"], y[:, 0]

    _, found = jax.jit(lambda cache, x: jax.lax.scan(step, cache, x.swapaxes(0, 1)))(calls.empty_cache(module, x), x)
    return np.swapaxes(found, 0, 1)


def check_decoding(module, length, width):
    """Tokens decoded one by one are those of one pass, which is dense."""
    x = np.random.default_rng(0).standard_normal((2, length, width), np.float32)
    variables = calls.random_variables(module, x)
    expected = calls.apply(module.clone(implementation="dense"), variables, x)
    np.testing.assert_allclose(decoded(module, variables, x), expected, atol=2e-5, rtol=1e-4)


def scratch(module, length):
    """Bytes besides inputs and outputs of a forward and backward pass of one example of 16 features."""
    x = jax.ShapeDtypeStruct((1, length, 16), jnp.float32)
    variables = jax.eval_shape(lambda x: nn.unbox(module.init(jax.random.key(0), x)), x)

    def train(variables, x):
        return jax.grad(lambda variables: module.apply(variables, x).sum())(variables)

    return jax.jit(train).lower(variables, x).compile().memory_analysis().temp_size_in_bytes


def counted_flops(module, length, width):
    """XLA's count of a forward pass of two examples."""
    x = jax.ShapeDtypeStruct((2, length, width), jnp.float32)
    variables = jax.eval_shape(lambda x: nn.unbox(module.init(jax.random.key(0), x)), x)
    return jax.jit(module.apply).lower(variables, x).compile().cost_analysis()["flops"]
