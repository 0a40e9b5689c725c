"""Which tokens ConvNN attention samples: positions, in sequences whose ends are known, masked, or packed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import ConvNNAttention
from jattn.attention import convnn_candidates as sampling
from tests import calls


def chosen(candidates, example=0):
    """The slots that count, ascending."""
    slot = np.broadcast_to(candidates.slot, candidates.valid.shape)[example]
    return sorted(slot[np.asarray(candidates.valid)[example if len(candidates.valid) > 1 else 0]].tolist())


def drawn(sample, slots, *options, mask=None, pairs=None, length=None):
    """The candidates of `sample` in so many slots, in one compiled program."""

    def run(mask, pairs):
        return sample(sampling.places(slots, mask, pairs, length), *options)

    return jax.jit(run)(mask, pairs)


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
    positions = chosen(drawn(sampling.spatial, 148, 64, 0))
    assert 62 in positions  # number 27 of 0 to 63 would be at 63 exactly
    assert 63 not in positions
    assert 27 * 147 / 63 == 63


def test_spatial_positions_that_coincide_count_once_but_not_for_the_released_code():
    assert chosen(drawn(sampling.spatial, 5, 11, 0)) == [0, 1, 2, 3, 4]
    assert chosen(drawn(sampling.released_spatial, 5, 11, 0)) == sorted(torchs(5, 11, 0))
    assert len(torchs(5, 11, 0)) == 11
    assert chosen(drawn(sampling.spatial, 3, 5, 2)) == []  # padding at both ends leaves nothing


def test_spatial_positions_end_with_the_last_real_token():
    mask = np.asarray([[True, False, True, True, False, False], [True] * 6])
    found = drawn(sampling.spatial, 6, 3, 0, mask=mask)
    assert chosen(found, 0) == [0, 3]  # of 0, 1 and 3; 1 is padding
    assert chosen(found, 1) == [0, 2, 5]
    pairs = np.broadcast_to(mask[:, None, None], (2, 1, 4, 6))
    assert chosen(drawn(sampling.spatial, 6, 3, 0, pairs=pairs), 0) == [0, 3]


def test_random_positions_are_real_distinct_and_as_many_as_asked_for():
    mask = np.random.default_rng(0).random((5, 41)) < 0.6
    draw = jax.jit(lambda seed: sampling.random(sampling.places(41, jnp.asarray(mask), None, None), 17, seed))
    for seed in range(5):
        found = draw(np.int32(seed))
        for example in range(5):
            slots = chosen(found, example)
            assert len(set(slots)) == len(slots) == min(17, mask[example].sum())
            assert mask[example][slots].all()


def test_random_positions_are_uniform():
    at = sampling.places(11, None, None, None)
    draw = jax.jit(jax.vmap(lambda seed: sampling.random(at, 3, seed).slot[0]))
    counts = np.bincount(np.ravel(draw(np.arange(3000, dtype=np.uint32))), minlength=11)
    # Each position is drawn with probability 3/11.
    np.testing.assert_allclose(counts / 3000, 3 / 11, atol=5 * (3 / 11 * 8 / 11 / 3000) ** 0.5)


def test_random_positions_do_not_change_when_padding_follows():
    alone = chosen(drawn(sampling.random, 13, 5, 7))
    assert chosen(drawn(sampling.random, 29, 5, 7, mask=np.arange(29)[None] < 13)) == alone


def test_with_a_fixed_length_samples_are_the_same_for_every_call():
    whole = chosen(drawn(sampling.random, 31, 11, 3, length=31))
    assert chosen(drawn(sampling.random, 17, 11, 3, length=31)) == [slot for slot in whole if slot < 17]
    assert chosen(drawn(sampling.spatial, 17, 4, 0, length=31)) == [0, 10]


SEGMENTS = np.asarray([[3, 3, 3, 3, 3, 0, 1, 1, 1, 0, 3, 3]], np.int32)


@pytest.mark.parametrize("length", [None, 19])
@pytest.mark.parametrize("kind", ["spatial", "random", "given"])
def test_packed_sequences_have_the_candidates_that_they_have_apart(kind, length):
    sample = {
        "spatial": functools.partial(sampling.spatial, count=4, padding=0),
        "random": functools.partial(sampling.random, count=4, seed=5),
        "given": functools.partial(sampling.given, positions=(6, 0, 2)),
    }[kind]
    found = chosen(drawn(sample, 12, mask=SEGMENTS, length=length))
    expected = []
    for segment in (3, 1):
        slots = np.flatnonzero(SEGMENTS[0] == segment)
        expected += slots[chosen(drawn(sample, slots.size, length=length))].tolist()
    assert found == sorted(expected)


def test_positions_in_a_segment_are_counted_from_its_first_token():
    at = jax.jit(lambda ids: sampling.places(12, ids, None, None))(SEGMENTS)
    real = SEGMENTS[0] != 0
    assert np.asarray(at.position[0])[real].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6]
    assert np.asarray(at.length[0])[real].tolist() == [7] * 5 + [3] * 3 + [7] * 2


def test_a_released_count_below_zero_leaves_that_many_out():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 7, 3)), jnp.float32)
    assert drawn(sampling.released_random, 7, -1, 0).slot.shape == (1, 6)
    module = ConvNNAttention(sampling_type="random", num_samples=-1, K=3, as_published=True)
    assert np.all(np.isfinite(calls.apply(module, calls.random_variables(module, x), x)))
