"""Decoding with a cache: sizes, chunks, padding, segments, and what goes wrong."""

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
    """Module without a cache, its parameters, an empty cache, and tokens."""
    module = SoftmaxAttention(num_heads=H, num_key_heads=K, head_dim=D, causal=True, rotary=True)
    x = tokens(B, T, C)
    variables = calls.init(module.clone(decode=True), x)
    return module, variables["params"], variables["cache"], x


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
    _, _, cache, _ = model
    assert {name: leaf.shape for name, leaf in cache.items()} == {
        "cached_key": (B, K, T, D),
        "cached_value": (B, K, T, D),
        "cached_mask": (B, 1, T),
        "cache_index": (),
    }
    assert not any(leaf.any() for leaf in cache.values())


def test_the_index_counts_tokens(model):
    assert decoded(model, [3, 1])[1]["cache_index"] == 4


@pytest.mark.parametrize("lengths", [[7], [1, 6], [2, 3, 2], [1] * 7])
def test_chunks_of_any_length_give_the_full_pass(model, lengths):
    module, params, _, x = model
    np.testing.assert_allclose(decoded(model, lengths)[0], full_pass(module, params, x), atol=2e-5)


def test_padding_of_the_prompt_is_remembered(model):
    module, params, _, x = model
    mask = np.asarray([[True, False, True, True], [False, False, True, True]])
    y, _ = decoded(model, [4, 1, 2], [mask, None, None])
    full = full_pass(module, params, x, np.concatenate([mask, np.ones((B, 3), bool)], 1))
    np.testing.assert_allclose(y[:, 2:], full[:, 2:], atol=2e-5)


def test_segments_are_remembered(model):
    module, params, _, x = model
    ids = np.asarray([[1, 1, 2, 2, 2, 2, 3], [4, 4, 4, 4, 4, 2, 2]], np.int32)
    y, _ = decoded(model, [4, 2, 1], [ids[:, :4], ids[:, 4:6], ids[:, 6:]])
    np.testing.assert_allclose(y, full_pass(module, params, x, ids), atol=2e-5)


def test_outputs_past_the_end_are_nan(model):
    module, params, _, x = model
    y, cache = decoded(model, [5, 2])
    assert np.all(np.isfinite(y))
    y, _ = step(module, params, cache, x[:, :1])
    assert np.all(np.isnan(y))


def test_a_chunk_across_the_end_is_nan(model):
    module, params, _, x = model
    _, cache = decoded(model, [5])
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
    module, params, _, x = model
    x = x[:, None]
    cache = calls.init(module.clone(decode=True), x)["cache"]
    y, _ = step(module, params, cache, x[..., :3, :])
    np.testing.assert_allclose(y, full_pass(module, params, x)[..., :3, :], atol=2e-5)


FORGETTING = {
    "local": (LocalAttention(H, head_dim=D, causal=True, window_size=3), 3),
    "neighborhood": (NeighborhoodAttention(H, head_dim=D, causal=True, kernel_size=3, dilation=2, rotary=True), 4),
    "sparse": (SparseAttention(H, head_dim=D, causal=True, mode="local", context=5, rotary=True), 2),
    "adaptive_span": (AdaptiveSpanAttention(H, head_dim=D, causal=True, max_span=2, softness=1.5, rotary=True), 3),
}


@pytest.fixture(scope="module", params=FORGETTING)
def forgetting(request):
    """Module, its parameters, an empty cache made for 19 tokens, those tokens, and how far it looks back."""
    module, reach = FORGETTING[request.param]
    x = tokens(B, 19, C)
    variables = calls.init(module.clone(decode=True), x)
    return (module, variables["params"], variables["cache"], x), reach


def test_what_is_out_of_reach_is_forgotten(forgetting):
    (module, params, cache, x), reach = forgetting
    assert {name: leaf.shape[2] for name, leaf in cache.items() if leaf.ndim} == dict.fromkeys(
        ("cached_key", "cached_value", "cached_mask"), reach
    )
    y, cache = decoded((module, params, cache, x), [1] * 19)
    assert cache["cache_index"] == 19
    np.testing.assert_allclose(y, full_pass(module, params, x), atol=2e-5)
    y, _ = step(module, params, cache, x[:, :1])  # there is no end
    longer = np.concatenate([x, x[:, :1]], 1)
    np.testing.assert_allclose(y, full_pass(module, params, longer)[:, -1:], atol=2e-5)


@pytest.mark.parametrize("lengths", [[19], [11, 1, 7], [1, 2, 16]])
def test_chunks_longer_than_the_reach_give_the_full_pass(forgetting, lengths):
    (module, params, _, x), _ = forgetting
    np.testing.assert_allclose(decoded(forgetting[0], lengths)[0], full_pass(module, params, x), atol=2e-5)


def test_padding_and_segments_within_reach_are_remembered(forgetting):
    (module, params, _, x), _ = forgetting
    real = np.arange(19) > np.asarray([[1], [6]])
    ids = np.asarray([[1] * 8 + [2] * 11, [4] * 3 + [5] * 15 + [0]], np.int32)
    for mask, shown in ((real, real), (ids, ids != 0)):
        parts = [mask[:, :5], mask[:, 5:6], mask[:, 6:]]
        y, _ = decoded(forgetting[0], [5, 1, 13], parts)
        expected = full_pass(module, params, x, mask)
        np.testing.assert_allclose(y[shown], expected[shown], atol=2e-5)


def test_a_cache_shorter_than_the_reach_has_an_end():
    module, _ = FORGETTING["neighborhood"]
    x = tokens(B, 3, C)
    variables = calls.init(module.clone(decode=True), x)
    made = module, variables["params"], variables["cache"], x
    y, cache = decoded(made, [2, 1])
    np.testing.assert_allclose(y, full_pass(module, variables["params"], x), atol=2e-5)
    assert np.all(np.isnan(step(module, variables["params"], cache, x[:, :1])[0]))
