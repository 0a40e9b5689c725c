import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import SoftmaxAttention, SparseAttention
from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from tests import calls
from tests.attention import allowed_pairs
from tests.attention.allowed_pairs import tokens
from tests.calls import random_variables

B, H, D, T, C = 2, 3, 5, 23, 13
NONE, PADDED = np.ones((B, T), bool), np.ones((B, T), bool)
PADDED[0, :3], PADDED[0, 9], PADDED[1, 17:] = False, False, False
PACKED = np.asarray([[4] * 9 + [2] * 5 + [7] * 7 + [0] * 2, [1] * 2 + [5] * 14 + [6] * 7], np.int32)


def sees(mode, size, summary, i, j):
    """Whether place i attends to place j, both counted from the beginning of their sequence."""
    match mode:
        case "all":
            return True
        case "local":
            return abs(i - j) <= size // 2
        case "strided":
            return abs(i - j) % size == 0
        case "fixed":
            return j // size == i // size or j % size in range(size - summary, size)


def allowed(mask, causal, *pattern):
    """Bool (B, T, T) by the definition, sequence by sequence."""
    pairs = np.zeros((len(mask), T, T), bool)
    for example, row in enumerate(mask):
        for number in np.unique(row[row != 0]):
            places = np.flatnonzero(row == number)
            for i in places:
                for j in places:
                    seen = sees(*pattern, i - places[0], j - places[0])
                    pairs[example, i, j] = seen and not (causal and j > i)
    return pairs


# Every mode in both forms and with every mask; "all" without a mask is below.
@pytest.mark.parametrize(
    ("mode", "context", "summary", "mask", "causal"),
    [
        ("all", 3, None, PADDED, True),
        ("all", 3, None, PACKED, False),
        ("local", 4, None, NONE, True),
        ("local", 5, None, PACKED, False),
        ("local", 5, None, PADDED, True),
        ("strided", 4, None, NONE, False),
        ("strided", 3, None, PADDED, True),
        ("strided", 64, None, PACKED, False),
        ("fixed", 5, 2, NONE, False),
        ("fixed", 4, 1, PADDED, False),
        ("fixed", 4, 1, PADDED, True),
        ("fixed", 3, 2, PACKED, True),
        ("fixed", 64, 1, PACKED, False),
    ],
)
def test_each_token_attends_to_its_pattern(mode, context, summary, mask, causal):
    module, x = SparseAttention(H, D, causal, mode=mode, context=context, summary=summary), tokens(B, T, C)
    given = None if mask is NONE else jnp.asarray(mask)
    pairs = allowed(mask, causal, mode, context, summary)
    allowed_pairs.check(module, random_variables(module, x), x, given, pairs)


@pytest.mark.parametrize(
    "fields", [{"mode": "all"}, {"mode": "local", "context": 2 * T}, {"mode": "strided", "context": 1}]
)
def test_patterns_of_all_pairs_are_softmax_attention(fields):
    x, softmax = tokens(B, T, C), SoftmaxAttention(H, D)
    variables = random_variables(softmax, x)
    found, expected = (calls.apply(m, variables, x) for m in (SparseAttention(H, D, **fields), softmax))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(("context", "summaries"), [(5, 1), (31, 1), (32, 2), (128, 8)])
def test_a_sixteenth_of_a_block_are_summaries_unless_said(context, summaries):
    by_default, said, more = (
        SparseAttention(H, mode="fixed", context=context, summary=c).cost(512, width=12)
        for c in (None, summaries, summaries + 1)
    )
    assert by_default == said != more


def test_released_code_drops_weights_in_evaluation_too():
    x = tokens(B, T, C)
    ours, released = (SparseAttention(H, D, dropout_rate=0.5, as_published=yes) for yes in (False, True))
    variables = random_variables(ours, x)

    def apply(module, key, deterministic=True):
        module = module.clone(implementation="dense")
        return calls.apply(module, variables, x, deterministic=deterministic, rngs={"dropout": key})

    keys = jax.random.key(0), jax.random.key(1)
    np.testing.assert_array_equal(*(apply(ours, key) for key in keys))
    one, other = (apply(released, key) for key in keys)
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_allclose(one, apply(ours, keys[0], False), atol=2e-6)
    with pytest.raises(UserError, match=r"as_published=True and dropout_rate 0.5, weights are dropped in evaluation"):
        jax.eval_shape(released.apply, variables, x)
    np.testing.assert_allclose(apply(released.clone(dropout_rate=0.0), keys[0]), apply(ours, keys[0]), atol=2e-6)
    weights = calls.apply(released, variables, x, method="weights")  # without a key, and without dropout
    np.testing.assert_allclose(weights.sum(-1), 1, atol=2e-6)


@pytest.mark.parametrize("mode", ["strided", "fixed"])
def test_dropout_keeps_the_mean(mode):
    # Queries and keys are zero, values the tokens' two features: without dropout, each output is its token.
    module = SparseAttention(1, use_bias=False, mode=mode, context=4, summary=2, dropout_rate=0.5)
    zero, eye = {"kernel": jnp.zeros((2, 1, 2))}, jnp.eye(2)
    params = {"query": zero, "key": zero, "value": {"kernel": eye[:, None]}, "out": {"kernel": eye[None]}}
    x = np.broadcast_to(np.float32([4, 6]), (64, 16, 2))
    call = functools.partial(calls.apply, module, {"params": params}, x)
    y = call(deterministic=False, rngs={"dropout": jax.random.key(0)})
    keys = 4 if mode == "strided" else 4 + 3 * 2  # of a query; each weight is 0 or 2 / keys
    np.testing.assert_allclose((y / x).std(), keys**-0.5, rtol=0.1)
    np.testing.assert_allclose(y.mean((0, 1)), [4, 6], rtol=5 * keys**-0.5 / 32)
    np.testing.assert_allclose(call(), x, rtol=1e-6)


@pytest.mark.parametrize("fields", [{"mode": "strided", "context": 7}, {"mode": "fixed", "context": 7, "summary": 2}])
def test_decoding_64_tokens_equals_one_pass(fields):
    allowed_pairs.check_decoding(SparseAttention(H, D, causal=True, **fields), 64, C)


@pytest.mark.parametrize("mode", ["local", "strided", "fixed"])
def test_no_matrix_of_pairs_is_built(mode):
    length, matrix = 2048, 4 * 2048**2
    assert allowed_pairs.scratch(SparseAttention(2, mode=mode, context=64), length) < matrix / 4


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", ["all", "local", "strided", "fixed"])
def test_cost_is_what_xla_counts_on_the_dense_path(mode, causal):
    module = SparseAttention(4, causal=causal, mode=mode, context=8, summary=2, implementation="dense")
    cost = module.cost(64, width=32, batch=2)
    assert cost.flops == pytest.approx(allowed_pairs.counted_flops(module, 64, 32), rel=0.05)
    assert cost.params == 4 * (32 * 32 + 32)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"context": 0}, "context is 0: it must be at least 1"),
        ({"context": 4, "summary": 5}, "summary is 5: it must lie between 1 and context 4"),
        ({"summary": 0}, "summary is 0: it must lie between 1 and context 128"),
    ],
)
def test_impossible_options_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        SparseAttention(H, **fields)


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match="it must be one of 'all', 'local', 'strided', 'fixed'"):
        mechanism("sparse", {"mode": "global"})
    module = SparseAttention(H)
    object.__setattr__(module, "mode", "global")  # past the type checks of tests
    with pytest.raises(UserError, match="mode 'global' is no pattern: choose from all, local, strided, fixed"):
        module.__post_init__()
