"""Decoding with a cache: sizes, chunks, padding, segments, and what goes wrong."""

import jax
import numpy as np
import pytest

from jattn.attention import (
    AdaptiveSpanAttention,
    LocalAttention,
    NeighborhoodAttention,
    SoftmaxAttention,
    SparseAttention,
)
from jattn.errors import UserError
from tests import calls

B, H, K, D, T, C = 2, 6, 3, 4, 7, 13


def tokens(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def model():
    """Module without a cache, its parameters, an empty cache, and tokens.

    It and those below are dense: the contract's `decode` decodes by the implementation that is chosen.
    """
    module = SoftmaxAttention(H, num_key_heads=K, head_dim=D, causal=True, rotary=True, implementation="dense")
    x = tokens(B, T, C)
    return module, calls.random_variables(module, x)["params"], calls.empty_cache(module, x), x


def step(module, params, cache, x, mask=None):
    variables = {"params": params, "cache": cache}
    y, updated = calls.apply(module.clone(decode=True), variables, x, mask, mutable=["cache"])
    return y, updated["cache"]


def full_pass(module, params, x, mask=None):
    return calls.apply(module, {"params": params}, x, mask)


def decoded(model, lengths, masks=None):
    """Outputs and last cache of decoding chunks of these lengths; masks: one a chunk."""
    module, params, cache, x = model
    outputs, start = [], 0
    for i, length in enumerate(lengths):
        y, cache = step(module, params, cache, x[:, start : start + length], None if masks is None else masks[i])
        outputs.append(y)
        start += length
    return np.concatenate(outputs, 1), cache


def test_init_sizes_the_cache_and_leaves_it_empty(model):
    module, *_, x = model
    cache = jax.jit(lambda x: module.clone(decode=True).init(jax.random.key(0), x)["cache"])(x)
    assert {name: leaf.shape for name, leaf in cache.items()} == {
        "cached_key": (B, K, T, D),
        "cached_value": (B, K, T, D),
        "cached_mask": (B, 1, T),
        "cache_index": (),
    }
    assert not any(np.any(leaf) for leaf in cache.values())


def test_the_index_counts_tokens(model):
    assert decoded(model, [3, 1])[1]["cache_index"] == 4


@pytest.mark.parametrize("lengths", [[7], [1, 3, 3], [2, 3, 2], [1] * 7])
def test_chunks_of_any_length_give_the_full_pass(model, lengths):
    module, params, _, x = model
    np.testing.assert_allclose(decoded(model, lengths)[0], full_pass(module, params, x), atol=2e-5)


def test_padding_of_the_prompt_is_remembered(model):
    module, params, _, x = model
    mask = np.asarray([[True, False, True], [False, False, True]])
    y, _ = decoded(model, [3, 1, 3], [mask, None, None])
    full = full_pass(module, params, x, np.concatenate([mask, np.ones((B, 4), bool)], 1))
    np.testing.assert_allclose(y[:, 2:], full[:, 2:], atol=2e-5)


def test_segments_are_remembered(model):
    module, params, _, x = model
    ids = np.asarray([[1, 1, 2, 2, 2, 2, 3], [4, 4, 4, 4, 4, 2, 2]], np.int32)
    y, _ = decoded(model, [3, 3, 1], [ids[:, :3], ids[:, 3:6], ids[:, 6:]])
    np.testing.assert_allclose(y, full_pass(module, params, x, ids), atol=2e-5)


def test_outputs_past_the_end_are_nan(model):
    module, params, _, x = model
    y, cache = decoded(model, [3, 1, 3])
    assert np.all(np.isfinite(y))
    y, _ = step(module, params, cache, x[:, :1])
    assert np.all(np.isnan(y))


def test_a_chunk_across_the_end_is_nan(model):
    module, params, _, x = model
    _, cache = decoded(model, [3, 2])
    y, _ = step(module, params, cache, x[:, :3])
    assert np.all(np.isnan(y))


def test_a_chunk_longer_than_the_cache_is_refused(model):
    module, params, cache, x = model
    longer = np.concatenate([x, x], 1)
    with pytest.raises(UserError, match=r"key of shape \(2, 3, 14, 4\) does not fit into the cache .*\(2, 3, 7, 4\)"):
        step(module, params, cache, longer)


def test_another_batch_is_refused(model):
    module, params, cache, x = model
    with pytest.raises(UserError, match="initialise the cache with an input of this batch"):
        step(module, params, cache, x[:1, :1])


def test_a_missing_cache_is_refused(model):
    module, params, _, x = model
    with pytest.raises(UserError, match="decode=True needs a cache"):
        calls.apply(module.clone(decode=True), {"params": params}, x[:, :1], mutable=["cache"])


def test_weights_of_a_decoding_module_are_those_of_one_pass(model):
    module, params, cache, x = model
    decoding = calls.apply(module.clone(decode=True), {"params": params, "cache": cache}, x, method="weights")
    np.testing.assert_array_equal(decoding, calls.apply(module, {"params": params}, x, method="weights"))


def test_leading_batch_axes_share_one_cache(model):
    module, params, cache, x = model
    made = calls.empty_cache(module, x[:, None])
    assert {name: leaf.shape for name, leaf in made.items()} == {name: leaf.shape for name, leaf in cache.items()}
    y, _ = step(module, params, made, x[:, None, :3])
    np.testing.assert_allclose(y[:, 0], full_pass(module, params, x)[:, :3], atol=2e-5)


DENSE = {"head_dim": D, "causal": True, "implementation": "dense"}
FORGETTING = {
    "local": (LocalAttention(H, **DENSE, window_size=3), 3),
    "neighborhood": (NeighborhoodAttention(H, **DENSE, kernel_size=3, dilation=2, rotary=True), 4),
    "sparse": (SparseAttention(H, **DENSE, mode="local", context=5, rotary=True), 2),
    "adaptive_span": (AdaptiveSpanAttention(H, **DENSE, max_span=2, softness=1.5, rotary=True), 3),
}


@pytest.fixture(params=FORGETTING)
def forgetting(request):
    """Module, its parameters, an empty cache made for 19 tokens, 20 tokens, and how far it looks back."""
    module, reach = FORGETTING[request.param]
    x = tokens(B, 20, C)
    return (module, calls.random_variables(module, x)["params"], calls.empty_cache(module, x[:, :19]), x), reach


def test_what_is_out_of_reach_is_forgotten_and_there_is_no_end(forgetting):
    (module, params, cache, x), reach = forgetting
    assert {name: leaf.shape[2] for name, leaf in cache.items() if leaf.ndim} == dict.fromkeys(
        ("cached_key", "cached_value", "cached_mask"), reach
    )
    y, cache = decoded(forgetting[0], [1] * 20)
    assert cache["cache_index"] == 20
    np.testing.assert_allclose(y, full_pass(module, params, x), atol=2e-5)


def test_chunks_longer_than_the_reach_give_the_full_pass(forgetting):
    (module, params, _, x), _ = forgetting
    expected = full_pass(module, params, x)
    for lengths in ([17, 1, 2], [1, 2, 17]):
        np.testing.assert_allclose(decoded(forgetting[0], lengths)[0], expected, atol=2e-5)


def test_padding_and_segments_within_reach_are_remembered(forgetting):
    (module, params, _, x), _ = forgetting
    real = np.arange(20) > np.asarray([[1], [6]])
    ids = np.asarray([[1] * 8 + [2] * 12, [4] * 3 + [5] * 16 + [0]], np.int32)
    # A mask of bools token by token is the contract's.
    for mask, lengths, shown in ((real, [5, 15], real), (ids, [5, 1, 14], ids != 0)):
        y, _ = decoded(forgetting[0], lengths, np.split(mask, np.cumsum(lengths)[:-1], axis=1))
        expected = full_pass(module, params, x, mask)
        np.testing.assert_allclose(y[shown], expected[shown], atol=2e-5)


def test_a_cache_shorter_than_the_reach_has_an_end():
    module, _ = FORGETTING["neighborhood"]
    x = tokens(B, 3, C)
    params = calls.random_variables(module, x)["params"]
    y, cache = decoded((module, params, calls.empty_cache(module, x), x), [1, 1, 1])
    np.testing.assert_allclose(y, full_pass(module, params, x), atol=2e-5)
    assert np.all(np.isnan(step(module, params, cache, x[:, :1])[0]))
