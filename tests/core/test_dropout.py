"""Dropout by hash: a function of the pair alone, fair, and unbiased."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import Dropout, attend
from tests.core.cases import attended, cast, tokens


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def decisions(rate, seed, example, head, queries, keys):
    dropout = Dropout(rate, seed)
    return dropout.kept(dropout.rows(example, head, jnp.arange(queries)), jnp.arange(keys))


def kept(rate, seed, example=0, head=0, queries=400, keys=500):
    return np.asarray(decisions(rate, np.uint32(seed), np.int32(example), np.int32(head), queries, keys))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_share_kept_is_within_five_deviations(rate):
    for seed in range(3):
        found = kept(rate, seed)
        deviation = np.sqrt(rate * (1 - rate) / found.size)
        assert abs(found.mean() - (1 - rate)) <= 5 * deviation
        # neither rows nor columns nor neighbours stand out
        for axis in (0, 1):
            spread = found.mean(axis).std() / np.sqrt(max(rate * (1 - rate), 1e-9) / found.shape[axis])
            assert spread < 1.2


def test_decisions_are_uncorrelated_over_seed_example_head_and_shift():
    base = kept(0.5, 1)
    others = [kept(0.5, 2), kept(0.5, 1, example=1), kept(0.5, 1, head=1), kept(0.5, 1, example=2, head=3)]
    others += [np.roll(base, 1, axis) for axis in (0, 1)]
    for other in others:
        correlation = np.corrcoef(base.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(base.size)


def test_example_and_head_do_not_commute():
    assert (kept(0.5, 1, example=3, head=5) != kept(0.5, 1, example=5, head=3)).any()


@pytest.mark.parametrize("implementation", ["dense", "blockwise"])
def test_weights_are_zeroed_or_scaled(implementation):
    """With one-hot values, the output is the row of weights."""
    keys = 257
    call = cast(tokens(heads=1, key_heads=1, queries=131, keys=keys), jnp.float32)
    call["v"] = jnp.asarray(np.broadcast_to(np.eye(keys, dtype=np.float32), (2, 1, keys, keys)))
    plain, lse = attended(call, "dense")
    out, dropped_lse = attended({**call, "dropout": Dropout(0.25, 5)}, implementation)
    np.testing.assert_allclose(dropped_lse, lse, atol=2e-5)
    expected = np.stack([kept(0.25, 5, b, 0, 131, keys) for b in range(2)])[:, None]
    np.testing.assert_allclose(out, np.where(expected, plain / 0.75, 0.0), atol=2e-5)


def test_an_example_is_dropped_alike_wherever_its_queries_start():
    call = cast(tokens(queries=149), jnp.float32)
    call["dropout"] = Dropout(0.4, 3)
    whole, _ = attended(call)
    part, _ = attended({**call, "q": np.asarray(call["q"])[:, :, 57:], "offset": 57})
    np.testing.assert_allclose(part, whole[:, :, 57:], atol=2e-5)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_a_rate_outside_zero_to_one_is_refused(rate):
    with pytest.raises(ValueError, match="dropout rate"):
        Dropout(rate, 0)


def test_seed_may_be_traced():
    call = cast(tokens(queries=3), jnp.float32)
    found = jax.jit(lambda seed: attend(**call, dropout=Dropout(0.4, seed))[0])(jnp.uint32(3))
    np.testing.assert_allclose(found, attended({**call, "dropout": Dropout(0.4, 3)})[0], atol=1e-6)
