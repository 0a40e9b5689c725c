"""Which tokens may be chosen, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.errors import UserError
from jattn.generation.sampling import Sampling, candidates, choose

LOGITS = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
LOGITS[1, 3] = LOGITS[1, 7] = 2.5  # a tie for the first place


def reference(row, sampling):
    """Probabilities of all tokens, one by one in the order of their likelihood."""
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    weights = np.exp(row.astype(np.float64) / sampling.temperature)
    if sampling.top_k is not None:
        k = int(np.ceil(sampling.top_k * len(row))) if sampling.top_k < 1 else sampling.top_k
        weights[order[k:]] = 0
    weights /= weights.sum()
    if sampling.top_p is not None:
        total = 0.0
        for token in order:
            if total >= sampling.top_p:
                weights[token] = 0
            total += weights[token]
    return weights / weights.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=1),
        Sampling(top_k=4),
        Sampling(top_k=99),
        Sampling(top_k=0.1),  # 1.1 of 11 tokens: 2
        Sampling(top_p=0.01),
        Sampling(top_p=0.7),
        Sampling(top_p=1.0),
        Sampling(temperature=0.3, top_p=0.7),
        Sampling(temperature=2.0, top_k=6, top_p=0.8),
    ],
    ids=str,
)
def test_candidates_against_numpy(sampling):
    logits, tokens = candidates(jnp.asarray(LOGITS), sampling)
    found = np.zeros(LOGITS.shape)
    np.put_along_axis(found, np.asarray(tokens), np.asarray(jax.nn.softmax(logits, axis=-1)), axis=-1)
    np.testing.assert_allclose(found, [reference(row, sampling) for row in LOGITS], atol=1e-6)


def drawn(sampling, draws=4000):
    """Shares of the tokens chosen for the first row, and the keys' other use: the second row, one key."""
    keys = jax.random.split(jax.random.key(0), draws)
    logits = jnp.broadcast_to(LOGITS[:1], (draws, 11))
    return np.bincount(np.asarray(choose(logits, keys, sampling)), minlength=11) / draws


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.5, top_k=5, top_p=0.9)], ids=str)
def test_tokens_are_drawn_with_their_probabilities(sampling):
    np.testing.assert_allclose(drawn(sampling), reference(LOGITS[0], sampling), atol=0.03)


def test_temperature_0_takes_the_likeliest():
    keys = jax.random.split(jax.random.key(0), 5)
    for sampling in (Sampling(temperature=0), Sampling(temperature=0, top_k=3)):
        chosen = choose(jnp.asarray(LOGITS), keys, sampling)
        np.testing.assert_array_equal(chosen, LOGITS.argmax(axis=-1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be a number of tokens, or a share"),
        ({"top_k": 2.5}, r"top_k=2\.5"),
        ({"top_p": 0.0}, r"top_p=0\.0 is a probability"),
        ({"top_p": 1.5}, r"top_p=1\.5"),
    ],
)
def test_values_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        Sampling(**options)
