import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import core
from jattn.attention.base import Inputs
from jattn.attention.folding import ResidueClasses, Summaries, extents, fold, unfold

B, H, T, D = 2, 3, 17, 5


def inputs(mask=None, pair_mask=None):
    x = jnp.zeros((2, T, 1))
    return Inputs(x, x, mask, mask, pair_mask, 0, True, (2,))


def test_fold_puts_a_residue_class_into_an_example():
    x = jnp.asarray(np.arange(2 * 7).reshape(2, 1, 7))
    folded = fold(x, 3)
    np.testing.assert_array_equal(folded[:3, 0], [[0, 3, 6], [1, 4, 0], [2, 5, 0]])
    np.testing.assert_array_equal(unfold(folded, 3, 7), x)


def test_extents_are_those_of_the_real_tokens_and_of_packed_sequences():
    first, last = extents(inputs(), 3)
    np.testing.assert_array_equal(first, [[0, 0, 0]])
    np.testing.assert_array_equal(last, [[2, 2, 2]])
    mask = jnp.asarray([[False, True, False, True, False], [True] * 5])
    for given in (inputs(mask), inputs(pair_mask=jnp.broadcast_to(mask[:, None, None], (2, 3, 5, 5)))):
        first, last = extents(given, 5)
        np.testing.assert_array_equal(first, [[1] * 5, [0] * 5])
        np.testing.assert_array_equal(last, [[3] * 5, [4] * 5])
    first, last = extents(inputs(jnp.asarray([[3, 3, 8, 8, 0], [1, 2, 2, 2, 2]])), 5)
    np.testing.assert_array_equal(first, [[0, 0, 2, 2, 4], [0, 1, 1, 1, 1]])
    np.testing.assert_array_equal(last, [[1, 1, 3, 3, 4], [0, 4, 4, 4, 4]])


def operands(length):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((B, H, length, D), np.float32) for _ in range(3))
    segment = np.sort(rng.integers(0, 3, (B, 1, length)))
    riders = {"segment": segment, "left": np.full((1, 1, length), 4)}
    return q, k, v, riders, riders | {"valid": np.arange(length)[None, None] != 3}


def same(how, terms, length, extra=None, statistics=()):
    """`how` gives what the reference gives: out, lse, their gradients, and statistics with each of these options."""
    *features, of_queries, of_keys = operands(length)
    terms = {"score": core.Dot(), "bias": None, "mask": None, "offset": 0} | terms

    def everything(attend, implementation, rows_of, features, of_queries, of_keys, statistics):
        def outputs(q, k, v):
            q, k = of_queries | {"features": q}, of_keys | {"features": k}
            out, lse = attend(q, k, v, **terms, dropout=None, implementation=implementation)
            return (out, jnp.where(lse == -jnp.inf, 0.0, lse)), lse

        (out, finite), pull, lse = jax.vjp(outputs, *features, has_aux=True)
        gradients = pull((jnp.broadcast_to(jnp.cos(jnp.arange(D)), out.shape), jnp.cos(finite)))
        q, k = of_queries | {"features": features[0]}, of_keys | {"features": features[1]}
        return out, lse, gradients, [rows_of(q, k, lse, **terms, **given) for given in statistics]

    @jax.jit
    def both(*operands):
        found = everything(how.attend, None, how.statistics, *operands)
        return found, everything(core.attend, "dense", core.statistics, *operands)

    riders = {} if extra is None else extra(length)
    found, expected = both(features, of_queries | riders, of_keys | riders, statistics)
    chex.assert_trees_all_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("step", "length", "terms"),
    [
        (3, 17, {"bias": core.Strided(3)}),
        (4, 12, {"bias": core.Strided(4) + core.Causal(), "mask": core.Padding() & core.Segments()}),
        (5, 13, {"bias": core.Strided(5) + core.Window(9, 7), "mask": core.Padding()}),
        (2, 11, {"bias": core.Strided(2), "mask": core.Shifted(9)}),
        (19, 7, {"bias": core.Strided(19), "mask": core.Segments()}),
    ],
)
def test_residue_classes_give_what_an_ordinary_call_gives(step, length, terms):
    keys = np.random.default_rng(1).integers(length, 9 * length, (1, 1, length))
    same(ResidueClasses(step), terms, length, statistics=[{"keys": keys}] if "mask" in terms else [{}])


# Blocks with some summaries in both forms; nothing but summaries, and none, in one each. Statistics are the core's own.
@pytest.mark.parametrize(
    ("size", "count", "length", "causal"),
    [(5, 2, 17, False), (5, 2, 17, True), (3, 3, 11, True), (7, 1, 6, False)],
)
def test_summaries_give_what_an_ordinary_call_gives(size, count, length, causal):
    def riders(length):
        places = np.arange(length)[None, None]
        return {"block": places // size, "summary": places % size >= size - count}

    terms = {"bias": core.Causal() if causal else None, "mask": core.Padding() & core.Blocks(size, causal)}
    same(Summaries(size, count, causal), terms, length, riders)


def test_a_stretched_reach_is_the_smallest_interval_of_whole_steps():
    bias = core.StretchedBias(core.Window(7, 4), 3)  # lags -4 to 7 in threes: -3, 0, 3, 6
    assert bias.reach() == (-1, 2)
    np.testing.assert_array_equal(bias(jnp.arange(-3, 5))[0] == 0, [False, False, True, True, True, True, False, False])
    assert core.StretchedMask(core.Shifted(6), 2).reach() == (-2, 2)
    assert core.StretchedMask(core.Padding(), 2).reach() == (None, None)


def test_merging_sets_of_keys():
    parts = [
        (np.float32([[[[2], [3], [0]]]]), np.float32([[[0, np.log(5), -np.inf]]])),
        (np.float32([[[[6], [0], [0]]]]), np.float32([[[np.log(3), -np.inf, -np.inf]]])),
    ]
    out, lse = jax.device_get(jax.jit(core.merged)(parts))
    np.testing.assert_allclose(out[0, 0, :, 0], [(2 + 3 * 6) / 4, 3, 0], rtol=1e-6)
    np.testing.assert_allclose(lse[0, 0], np.log([4, 5, 1e-99]).clip(-3) * [1, 1, np.inf], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda parts: core.merged(parts)[0].sum()))(parts)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
