"""Statistics by blocks against NumPy on the full matrix of weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import SPARSE, attend, mean_energy, statistics, weights
from jattn.core.call import group
from jattn.core.choice import Request
from jattn.core.dense import logits
from jattn.core.scores import Dot
from tests.core.cases import CASES, attended, cast


def matrix(call):
    """Logits and bare scores of every pair, B H T S in float64."""
    request = Request.of(**{"score": Dot(), "bias": None, "mask": None, "offset": 0, "dropout": None, **call})
    names = "score", "bias", "mask", "offset"
    defaults = {"score": Dot(), "bias": None, "mask": None, "offset": 0}
    indices = np.arange(request.batch), np.arange(request.heads)

    @jax.jit
    def computed(q, k, v, parts, indices):
        grouped = group(q, k, v, *(parts[name] for name in names), None, *indices)
        return grouped.ungroup(logits(grouped))

    def full(**parts):
        return np.asarray(computed(call["q"], call["k"], call["v"], {**defaults, **parts}, indices), np.float64)

    bare = full(**{name: call[name] for name in ("score", "offset") if name in call})
    return full(**{name: call[name] for name in names if name in call}), bare


@pytest.mark.parametrize("name", ["padding, empty rows", "array of pairs"])
def test_weights_are_what_multiplies_the_values(name):
    call = cast(CASES[name](), jnp.float32)
    found = np.asarray(jax.jit(lambda: weights(**{part: value for part, value in call.items() if part != "v"}))())
    values = np.repeat(call["v"], 2, axis=1)
    np.testing.assert_allclose(np.einsum("bhts,bhse->bhte", found, values), attended(call)[0], atol=2e-5)
    sums = found.sum(-1)
    assert set(np.unique(sums.round(5))) == {0.0, 1.0}


@pytest.mark.parametrize("name", ["dot", "padding, empty rows", "learned score and bias, padding"])
def test_statistics_equal_numpy(name):
    call = cast(CASES[name](), jnp.float32)
    values, scores = matrix(call)
    allowed = values > -np.inf
    some = allowed.any(-1)
    weights = np.where(allowed, np.exp(values - np.where(some, values.max(-1), 0.0)[..., None]), 0.0)
    weights /= np.where(some, weights.sum(-1), 1.0)[..., None]
    lag = np.abs(call.get("offset", 0) + np.arange(values.shape[2])[:, None] - np.arange(values.shape[3]))
    expected = {
        "pairs": allowed.sum(-1),
        "energy": np.where(allowed, np.abs(scores), 0).sum(-1) / np.maximum(allowed.sum(-1), 1),
        "entropy": -(weights * np.log(np.where(weights > 0, weights, 1.0))).sum(-1),
        "distance": (weights * lag).sum(-1),
        "largest": weights.max(-1),
        "first": weights[..., 0],
        "mean": np.where(allowed, scores, 0).sum(-1) / np.maximum(allowed.sum(-1), 1),
        "square": np.where(allowed, np.square(scores), 0).sum(-1) / np.maximum(allowed.sum(-1), 1),
        "diagonal": np.where(lag == 0, weights, 0).sum(-1),
    }
    keys = np.random.default_rng(0).integers(allowed.sum(-1).max(), 2 * values.shape[3], (1, 1, values.shape[2]))
    enough = (weights >= SPARSE / keys[..., None]).sum(-1)
    expected["sparsity"] = np.where(some, 1 - enough / keys, 0)
    arguments = {name: part for name, part in call.items() if name != "v"}
    lse = jnp.asarray(attended(call)[1])
    found = jax.jit(lambda: statistics(lse=lse, keys=jnp.asarray(keys), **arguments))()
    assert set(expected) == {field.name for field in dataclasses.fields(found)}
    for field, value in expected.items():
        np.testing.assert_allclose(getattr(found, field), value, atol=2e-4, rtol=1e-4, err_msg=field)
    pairs = allowed.sum()
    np.testing.assert_allclose(
        jax.jit(mean_energy)(found), np.where(allowed, np.abs(scores), 0).sum() / pairs, rtol=1e-4
    )


def test_closed_form_of_uniform_attention():
    """Equal scores: entropy log(t + 1), distance t / 2, every weight 1 / (t + 1)."""
    call = cast(CASES["causal, equal heads"](), jnp.float32)
    zero = {**call, "q": jnp.zeros_like(call["q"])}
    lse = jnp.asarray(attended(zero)[1])
    del zero["v"]
    found = jax.jit(lambda: statistics(lse=lse, **zero))()
    t = np.arange(283)
    np.testing.assert_allclose(np.asarray(found.entropy)[0, 0], np.log(t + 1), atol=1e-4)
    np.testing.assert_allclose(np.asarray(found.distance)[1, 5], t / 2, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(found.first)[1, 2], 1 / (t + 1), rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(found.pairs)[0, 3], t + 1)
    np.testing.assert_allclose(np.asarray(found.diagonal)[0, 1], 1 / (t + 1), rtol=1e-4)
    # Of all 283 keys: those that are not attended to are the later ones.
    np.testing.assert_allclose(np.asarray(found.sparsity)[1, 4], 1 - (t + 1) / 283, atol=1e-6)
    np.testing.assert_array_equal(found.energy, 0.0)


def test_gradients_are_stopped():
    call = cast(CASES["dot"](), jnp.float32)

    def f(q):
        _, lse = attend(q, call["k"], call["v"])
        return mean_energy(statistics(q, call["k"], lse))

    np.testing.assert_array_equal(jax.jit(jax.grad(f))(call["q"]), 0.0)
