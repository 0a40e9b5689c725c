import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import NeighborhoodAttention, SoftmaxAttention
from jattn.errors import UserError
from tests import calls
from tests.attention import allowed_pairs
from tests.attention.allowed_pairs import tokens
from tests.calls import random_variables

B, H, D, T, C = 2, 3, 5, 23, 13
NONE, HOLE, TAIL = np.ones((B, T), bool), np.ones((B, T), bool), np.ones((B, T), bool)
HOLE[0, 7] = HOLE[1, 11] = False
TAIL[0, :2], TAIL[0, 19:], TAIL[1, 13:] = False, False, False
PACKED = np.asarray([[4] * 9 + [2] * 5 + [7] * 7 + [0] * 2, [1] * 2 + [5] * 14 + [6] * 7], np.int32)


def nearest(places, kernel_size, dilation, causal):
    """For each of these places, the nearest `kernel_size` of its residue class, itself among them; all if fewer."""
    found = {}
    for i in places:
        others = [j for j in places if (j - i) % dilation == 0 and (j <= i or not causal)]
        span = (kernel_size - 1) * dilation
        others = [j for j in others if not causal or i - j <= span]
        found[i] = sorted(others, key=lambda j: abs(j - i))[:kernel_size]
    return found


def allowed(mask, kernel_size, dilation, causal):
    """Bool (B, T, T) by the definition, sequence by sequence."""
    pairs = np.zeros((len(mask), T, T), bool)
    for example, row in enumerate(mask):
        if row.dtype == bool:
            sequences = [range(np.flatnonzero(row)[0], np.flatnonzero(row)[-1] + 1)]
        else:
            sequences = [np.flatnonzero(row == number) for number in np.unique(row[row != 0])]
        for places in sequences:
            for i, others in nearest(list(places), kernel_size, dilation, causal).items():
                pairs[example, i, others] = True
    return pairs & (mask != 0)[:, None]


# Causal windows are cut at borders and not shifted (below): of them one without a mask, one padded and one packed.
@pytest.mark.parametrize(
    ("fields", "mask", "causal"),
    [
        ({"kernel_size": 7}, NONE, False),
        ({"kernel_size": 5, "dilation": 4, "qk_scale": 0.7}, NONE, False),
        ({"kernel_size": 11, "dilation": 3}, NONE, False),  # more keys than a residue class has
        ({"kernel_size": 11, "dilation": 3}, NONE, True),
        ({"kernel_size": 5}, TAIL, False),
        ({"kernel_size": 3, "dilation": 3}, HOLE, False),
        ({"kernel_size": 3, "dilation": 3}, HOLE, True),
        ({"kernel_size": 3, "dilation": 2}, PACKED, False),
        ({"kernel_size": 3, "dilation": 2}, PACKED, True),
    ],
)
def test_each_token_attends_to_its_nearest(fields, mask, causal):
    module = NeighborhoodAttention(H, D, causal, **fields)
    x = tokens(B, T, C)
    pairs = allowed(mask, module.kernel_size, module.dilation, causal)
    given = None if mask is NONE else jnp.asarray(mask)
    allowed_pairs.check(module, random_variables(module, x), x, given, pairs, module.qk_scale)


def test_windows_are_shifted_at_borders_and_cut_where_causal():
    x = tokens(1, 7, C)

    def keys(causal):
        module = NeighborhoodAttention(1, D, causal, kernel_size=5)
        weights = calls.apply(module, random_variables(module, x), x, method="weights")
        return [np.flatnonzero(row).tolist() for row in weights[0, 0]]

    shifted = [[0, 1, 2, 3, 4]] * 3 + [[1, 2, 3, 4, 5]] + [[2, 3, 4, 5, 6]] * 3
    assert keys(False) == shifted
    assert keys(True) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6]]


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_over_everything_is_softmax_attention(causal):
    x, mask = tokens(B, T, C), jnp.asarray(TAIL)
    module, softmax = NeighborhoodAttention(H, D, causal, kernel_size=2 * T + 1), SoftmaxAttention(H, D, causal)
    variables = random_variables(softmax, x)
    found, expected = (calls.apply(m, variables, x, mask) for m in (module, softmax))
    np.testing.assert_allclose(found[TAIL], expected[TAIL], atol=2e-6)


def test_a_mask_of_pairs_takes_borders_from_the_keys_that_anybody_sees():
    x = tokens(B, T, C)
    module = NeighborhoodAttention(H, D, kernel_size=5, dilation=2)
    call = functools.partial(calls.apply, module, random_variables(module, x), x)
    pairs = np.broadcast_to(TAIL[:, None], (B, T, T))
    np.testing.assert_allclose(call(pairs)[TAIL], call(TAIL)[TAIL], atol=2e-6)


def test_decoding_64_tokens_equals_one_pass():
    allowed_pairs.check_decoding(NeighborhoodAttention(H, D, causal=True, kernel_size=5, dilation=3), 64, C)


@pytest.mark.parametrize("fields", [{}, {"dilation": 3}, {"dilation": 3, "causal": True}])
def test_no_matrix_of_pairs_is_built(fields):
    length, matrix = 2048, 4 * 2048**2
    assert allowed_pairs.scratch(NeighborhoodAttention(2, kernel_size=7, **fields), length) < matrix / 4


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("fields", [{"qkv_bias": False}, {"dilation": 5, "rotary": True}])
def test_cost_is_what_xla_counts_on_the_dense_path(fields, causal):
    module = NeighborhoodAttention(4, causal=causal, kernel_size=7, implementation="dense", **fields)
    cost = module.cost(64, width=32, batch=2)
    assert cost.flops == pytest.approx(allowed_pairs.counted_flops(module, 64, 32), rel=0.05)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(random_variables(module, tokens(1, 64, 32))))


@pytest.mark.parametrize(
    ("fields", "biased"),
    [
        ({}, {"query", "key", "value", "out"}),
        ({"qkv_bias": False}, {"out"}),
        ({"use_bias": False}, set()),
        ({"use_bias": False, "qkv_bias": True}, {"query", "key", "value"}),
    ],
)
def test_biases_of_the_projections(fields, biased):
    params = random_variables(NeighborhoodAttention(H, D, **fields), tokens(B, T, C))["params"]
    assert {name for name, layer in params.items() if "bias" in layer} == biased


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kernel_size": 4}, "kernel_size is 4: it must be odd and at least 1"),
        ({"kernel_size": -1}, "kernel_size is -1: it must be odd and at least 1"),
        ({"dilation": 0}, "dilation is 0: it must be at least 1"),
    ],
)
def test_impossible_options_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        NeighborhoodAttention(H, **fields)


def test_natten_refuses_what_the_default_takes():
    x = tokens(1, 8, C)
    taken, refused = (NeighborhoodAttention(H, D, kernel_size=3, dilation=3, as_published=yes) for yes in (False, True))
    variables = random_variables(taken, x)
    assert jax.eval_shape(taken.apply, variables, x).shape == x.shape
    with pytest.raises(UserError, match="kernel_size 3 times dilation 3 exceeds the 8 tokens: NATTEN refuses that"):
        jax.eval_shape(refused.apply, variables, x)
    assert jax.eval_shape(refused.apply, variables, tokens(1, 9, C)).shape == (1, 9, C)
