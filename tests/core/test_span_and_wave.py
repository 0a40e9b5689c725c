"""Soft spans and triangle waves: closed forms, NumPy from the equations, gradients, and what a span saves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jattn.core import Causal, SoftSpan, TriangleWave, attend
from jattn.core.blocks import grid, key_blocks_of, visited
from tests.core.cases import cast, tokens
from tests.core.span_masks import log_mask, span_mask, triangle_mask


@jax.jit
def logarithm(bias, lag):
    return bias(lag)


def masked(bias, distances):
    """The mask itself."""
    return np.exp(logarithm(bias, np.asarray(distances)))


def test_a_span_of_2_softened_over_4_tokens():
    found = masked(SoftSpan(jnp.asarray([2.0]), 4), range(9))
    np.testing.assert_allclose(found, [[1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0]], rtol=1e-6)


def test_a_wave_of_many_harmonics_is_a_triangle():
    """Of period 8 it falls from 2 to -2 in four tokens; half a token, and the ratio's 8 / 16, lift it."""
    ratios = np.float32([0, 1 / 16])
    level, lifted = masked(TriangleWave(np.float32([8, 8]), ratios, 999), range(13))
    np.testing.assert_allclose(level, [1, 1, 0.5, 0, 0, 0, 0.5, 1, 1, 1, 0.5, 0, 0], atol=1e-3)
    np.testing.assert_allclose(lifted[:9], [1, 1, 1, 0, 0, 0, 1, 1, 1], atol=1e-2)


def test_only_odd_harmonics_count():
    def wave(harmonics):
        return logarithm(TriangleWave(jnp.asarray([7.3]), jnp.zeros(1), harmonics), np.arange(5))

    np.testing.assert_array_equal(wave(5), wave(6))
    assert not np.allclose(wave(5), wave(7), atol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("distances", [range(100), range(30_000, 30_100)], ids=["near", "far"])
def test_masks_are_those_of_the_equation(distances, sign):
    spans, softness = np.float32([0.3, 7.0, 61.25, 29_999.5, 1e6]), 32
    periods, ratios = np.float32([2.01, 3.7, 8, 16, 64.3]), np.float32([-0.24, 0.1, 0, 0.24, -0.1])
    lag = sign * np.asarray(distances)
    span, wave = SoftSpan(jnp.asarray(spans), softness), TriangleWave(jnp.asarray(periods), jnp.asarray(ratios))
    expected = span_mask(spans, softness, distances), triangle_mask(periods, ratios, 5, distances)
    np.testing.assert_allclose(np.exp(logarithm(span, lag)), expected[0], atol=2e-5)
    np.testing.assert_allclose(np.exp(logarithm(wave, lag)), expected[1], atol=2e-5)
    with jax.enable_x64(True):
        span, wave = SoftSpan(jnp.asarray(spans, float), softness), TriangleWave(*map(jnp.float64, (periods, ratios)))
        np.testing.assert_allclose(logarithm(span + wave, lag), log_mask(*expected), atol=1e-9)


def test_a_mask_of_a_millionth_is_none():
    found = logarithm(SoftSpan(jnp.zeros(1), 2.0**20), np.asarray([2**20 - 2, 2**20 - 1, 2**20]))
    np.testing.assert_allclose(found, [[np.log(2 / 2**20), -np.inf, -np.inf]], rtol=1e-6)


def slopes(make, distance, *parameters):
    """The mask's derivatives with respect to the parameters."""

    @jax.jit
    def value(distance, *parameters):
        return make(*(parameter[None] for parameter in parameters))(distance)[0]

    return jax.jit(jax.grad(value, range(1, 1 + len(parameters))))(distance, *parameters)


def test_gradients_at_the_corners_of_the_ramp_are_those_of_torchs_clamp():
    """It passes the gradient at equality, where `jnp.clip` halves it. Of a new layer, distance = z is such a corner."""

    def slope(distance):
        return slopes(lambda span: SoftSpan(span, 4), distance, 6.0)[0]

    np.testing.assert_allclose([slope(5), slope(6), slope(7), slope(9)], [0, 1 / 4, 1 / 3, 1], rtol=1e-6)
    np.testing.assert_array_equal([slope(10), slope(11), slope(1000)], 0.0)
    assert jax.grad(lambda z: jnp.clip((4 - 6 + z) / 4, 0, 1))(6.0) == 1 / 8


def test_gradients_of_the_wave_are_differences_of_the_equation():
    cases = [(7.3, 0.05, 2), (7.3, 0.05, 5), (15.9, -0.06, 3), (7.3, 0.05, 65111), (2.9, -0.1, 65111)]
    step = 1e-7
    with jax.enable_x64(True):
        for period, ratio, distance in cases:
            found = slopes(TriangleWave, distance, period, ratio)
            mask = triangle_mask(period, ratio, 5, distance).item()
            assert 0.01 < mask < 0.99, "this case is flat"
            for slope, moved in zip(found, [(step, 0), (0, step)], strict=True):
                up, down = (
                    triangle_mask(period + s * moved[0], ratio + s * moved[1], 5, distance).item() for s in (1, -1)
                )
                assert slope == pytest.approx((np.log(up) - np.log(down)) / (2 * step), rel=1e-4), (period, distance)


def test_what_is_masked_has_a_gradient_of_zero():
    """Neither inf - inf nor 0 * inf: all pairs of a block, most of them masked, one of each row at most in sight."""
    call = cast(tokens(queries=37, keys=37), jnp.float32)

    def loss(span, period, ratio, implementation):
        bias = Causal() + SoftSpan(span, 2) + TriangleWave(period, ratio)
        return (attend(**call, bias=bias, implementation=implementation)[0] ** 2).sum()

    for implementation in ("blockwise", "dense"):
        gradient = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
        gradients = gradient(*(np.full(6, x, np.float32) for x in (-3.0, 40.0, -0.25)), implementation)
        np.testing.assert_array_equal(gradients, np.zeros((3, 6)))


def test_gradients_of_spans_and_waves_are_those_of_dense_attention():
    """Not causal, of lags of either sign: `test_by_head` has causal spans."""
    with jax.enable_x64(True):
        call = tokens()
        parameters = np.linspace(3.3, 171.7, 6), np.linspace(2.1, 9.7, 6), np.linspace(-0.2, 0.2, 6)

        def outputs(q, k, v, span, period, ratio, implementation):
            bias = SoftSpan(span, 23.0) + TriangleWave(period, ratio)
            return attend(q, k, v, bias=bias, offset=131, implementation=implementation)

        @functools.partial(jax.jit, static_argnums=0)
        def both(implementation, *arguments):
            found, pull = jax.vjp(lambda *x: outputs(*x, implementation), *arguments)
            return found, pull(jax.tree.map(jnp.cos, found))

        found, expected = (both(name, *call.values(), *parameters) for name in ("blockwise", "dense"))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), found, expected)
        assert all(np.all(np.asarray(gradient) != 0) for gradient in found[1][-3:])


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 3000, width=32), st.floats(0.5, 64, width=32))
def test_reach_holds_every_key_in_sight(span, softness):
    bias = SoftSpan(jnp.asarray([span], jnp.float32), softness)
    distances = np.arange(3100)
    lo, hi = bias.reach()
    seen = np.asarray(bias(jnp.asarray(distances)))[0] > -np.inf
    assert not seen[distances > hi.item()].any()
    assert lo == -hi
    assert seen[distances < hi.item() - 1e-5 * softness - 1e-3].all()


def test_fewer_blocks_are_visited_as_the_span_shrinks_by_the_same_program():
    """Keys out of reach are NaN: a program that touched them would say so."""
    call = cast(tokens(queries=93), jnp.float32)  # keys 0 to 282 in blocks of 95, queries from 190 on
    traces = []

    @jax.jit
    def train(call, span):
        traces.append(span)

        def loss(q, span):
            out, _ = attend(**{**call, "q": q}, bias=Causal() + SoftSpan(span, 16), offset=190)
            return (out**2).sum(), out

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(call["q"], span)

    reached = np.arange(283)[:, None] >= 95
    poisoned = {**call} | {name: jnp.asarray(np.where(reached, call[name], np.nan)) for name in "kv"}
    count = jax.jit(lambda span: visited(grid(93, 283), (Causal() + SoftSpan(span, 16)).reach(), offset=190))
    blocks = []
    for longest in (283.0, 150.0, 79.0, 78.0, 3.0):
        span = np.linspace(1.0, longest, 6, dtype=np.float32)
        expected, found = train(call, span), train(poisoned, span)
        blocks.append(count(span).item())
        assert jax.tree.all(jax.tree.map(lambda x: np.isfinite(x).all(), expected))
        if blocks[-1] == 3:
            assert np.isnan(found[0][1]).any()
        else:
            jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert blocks == [3, 3, 2, 2, 2]
    assert len(traces) == 1


def test_visited_blocks_are_counted():
    for queries, keys, reach in ((283, 149, (0, None)), (283, 283, (-40, 40)), (149, 283, (None, None))):
        g = grid(queries, keys)
        lo, hi = (np.int32(far if end is None else end) for end, far in zip(reach, (-999, 999), strict=True))
        of_block = jax.jit(functools.partial(key_blocks_of, g))
        spans = [of_block(np.int32(i), np.int32(0), (lo, hi)) for i in range(g.query_blocks)]
        assert jax.jit(visited, static_argnums=(0, 1))(g, reach) == sum(int(stop) - int(start) for start, stop in spans)


def test_a_tree_of_placements_has_their_form():
    """`shard_map` is told where each parameter lies by a tree of the same form."""
    for bias in (SoftSpan(np.ones(3)), TriangleWave(np.ones(3), np.ones(3))):
        placed = jax.tree.map(lambda leaf: jax.P("model"), bias)
        assert set(jax.tree.leaves(placed, is_leaf=lambda leaf: isinstance(leaf, jax.P))) == {jax.P("model")}
