"""Which tokens ConvNN attention samples: positions, in sequences whose ends are known, masked, or packed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import ConvNNAttention
from jattn.attention import convnn_candidates as sampling


def chosen(candidates, example=0):
    """The slots that count, ascending."""
    slot = np.broadcast_to(candidates.slot, candidates.valid.shape)[example]
    return sorted(slot[np.asarray(candidates.valid)[example if len(candidates.valid) > 1 else 0]].tolist())


def plain(slots, length=None):
    return sampling.places(slots, None, None, length)


def torchs(length, count, padding):
    """The rule of torch.linspace in float32, truncated, written out one by one."""
    first, last = np.float32(padding), np.float32(length - padding - 1)
    if count == 1:
        return [int(first)]
    step = np.float32((last - first) / np.float32(count - 1))
    return [
        int(
            first + np.float32(step * np.float32(i))
            if i < count // 2
            else last - np.float32(step * np.float32(count - 1 - i))
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 9, 32, 64])
@pytest.mark.parametrize("padding", [0, 3])
def test_spatial_positions_are_rounded_as_torch_does(count, padding):
    lengths = np.arange(2 * padding + 1, 300)
    expected = np.asarray([torchs(length, count, padding) for length in lengths])
    np.testing.assert_array_equal(sampling.spaced(lengths, count, padding), expected)


def test_rounding_is_torchs_where_exact_arithmetic_differs():
    positions = chosen(sampling.spatial(plain(148), 64, 0))
    assert 62 in positions  # number 27 of 0 to 63 would be at 63 exactly
    assert 63 not in positions
    assert 27 * 147 / 63 == 63


def test_spatial_positions_that_coincide_count_once_but_not_for_the_released_code():
    assert chosen(sampling.spatial(plain(5), 11, 0)) == [0, 1, 2, 3, 4]
    assert chosen(sampling.released_spatial(plain(5), 11, 0)) == sorted(torchs(5, 11, 0))
    assert len(torchs(5, 11, 0)) == 11
    assert chosen(sampling.spatial(plain(3), 5, 2)) == []  # padding at both ends leaves nothing


def test_spatial_positions_end_with_the_last_real_token():
    mask = jnp.asarray([[True, False, True, True, False, False], [True] * 6])
    found = jax.jit(lambda mask: sampling.spatial(sampling.places(6, mask, None, None), 3, 0))(mask)
    assert chosen(found, 0) == [0, 3]  # of 0, 1 and 3; 1 is padding
    assert chosen(found, 1) == [0, 2, 5]
    pairs = jnp.broadcast_to(mask[:, None, None], (2, 1, 4, 6))
    assert chosen(sampling.spatial(sampling.places(6, None, pairs, None), 3, 0), 0) == [0, 3]


def test_random_positions_are_real_distinct_and_as_many_as_asked_for():
    mask = np.random.default_rng(0).random((5, 41)) < 0.6
    at = sampling.places(41, jnp.asarray(mask), None, None)
    for seed in range(5):
        found = sampling.random(at, 17, seed)
        for example in range(5):
            slots = chosen(found, example)
            assert len(set(slots)) == len(slots) == min(17, mask[example].sum())
            assert mask[example][slots].all()


def test_random_positions_are_uniform():
    draw = jax.jit(jax.vmap(lambda seed: sampling.random(plain(11), 3, seed).slot[0]))
    counts = np.bincount(np.ravel(draw(jnp.arange(3000, dtype=jnp.uint32))), minlength=11)
    # Each position is drawn with probability 3/11.
    np.testing.assert_allclose(counts / 3000, 3 / 11, atol=5 * (3 / 11 * 8 / 11 / 3000) ** 0.5)


def test_random_positions_do_not_change_when_padding_follows():
    alone = chosen(sampling.random(plain(13), 5, 7))
    padded = sampling.places(29, jnp.arange(29)[None] < 13, None, None)
    assert chosen(sampling.random(padded, 5, 7)) == alone


def test_with_a_fixed_length_samples_are_the_same_for_every_call():
    whole = chosen(sampling.random(plain(31, 31), 11, 3))
    assert chosen(sampling.random(plain(17, 31), 11, 3)) == [slot for slot in whole if slot < 17]
    assert chosen(sampling.spatial(plain(17, 31), 4, 0)) == [0, 10]


SEGMENTS = jnp.asarray([[3, 3, 3, 3, 3, 0, 1, 1, 1, 0, 3, 3]], jnp.int32)


@pytest.mark.parametrize("length", [None, 19])
@pytest.mark.parametrize("kind", ["spatial", "random", "given"])
def test_packed_sequences_have_the_candidates_that_they_have_apart(kind, length):
    sample = {
        "spatial": functools.partial(sampling.spatial, count=4, padding=0),
        "random": functools.partial(sampling.random, count=4, seed=5),
        "given": functools.partial(sampling.given, positions=(6, 0, 2)),
    }[kind]
    found = chosen(jax.jit(lambda ids: sample(sampling.places(12, ids, None, length)))(SEGMENTS))
    expected = []
    for segment in (3, 1):
        slots = np.flatnonzero(np.asarray(SEGMENTS[0]) == segment)
        expected += slots[chosen(sample(plain(slots.size, length)))].tolist()
    assert found == sorted(expected)


def test_positions_in_a_segment_are_counted_from_its_first_token():
    at = sampling.places(12, SEGMENTS, None, None)
    real = np.asarray(SEGMENTS[0]) != 0
    assert np.asarray(at.position[0])[real].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6]
    assert np.asarray(at.length[0])[real].tolist() == [7] * 5 + [3] * 3 + [7] * 2


def test_a_released_count_below_zero_leaves_that_many_out():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 7, 3)), jnp.float32)
    assert sampling.released_random(plain(7), -1, 0).slot.shape == (1, 6)
    module = ConvNNAttention(sampling_type="random", num_samples=-1, K=3, as_published=True)
    assert jnp.all(jnp.isfinite(module.init_with_output(jax.random.key(0), x)[0]))
