"""Which blocks are visited: against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jattn.core import Causal, Sum, Window, attend
from jattn.core.blocks import Grid, grid, key_blocks_of, query_blocks_of
from tests.core.cases import Fade, cast, tokens


def test_blocks_are_of_equal_size_and_cover_everything():
    assert grid(1024, 1024) == Grid(1024, 1024, 128, 128)
    assert grid(149, 283) == Grid(149, 283, 75, 95)
    assert grid(1, 5) == Grid(1, 5, 1, 5)


lags = st.integers(-40, 40)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 23), st.integers(1, 23), st.integers(1, 7), st.integers(1, 7), lags, lags, lags)
def test_visited_blocks_are_those_that_hold_a_pair_within_reach(queries, keys, t, s, offset, lo, width):
    g = Grid(queries, keys, t, s)
    offset, reach = jnp.int32(offset), (jnp.int32(lo), jnp.int32(lo + abs(width)))
    lag = int(offset) + np.arange(g.query_blocks * t)[:, None] - np.arange(g.key_blocks * s)[None, :]
    within = (lag >= lo) & (lag <= lo + abs(width))

    def visited(of, count):  # of all that there can be: operations of other shapes would be other programs
        starts, stops = jax.vmap(lambda index: of(g, index, offset, reach))(jnp.arange(23))
        return [list(range(start, stop)) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)][:count]

    of_queries, of_keys = within[:queries], within[:, :keys]  # padding of the visited side may count
    assert visited(key_blocks_of, g.query_blocks) == [
        [j for j in range(g.key_blocks) if of_queries[i * t : (i + 1) * t, j * s : (j + 1) * s].any()]
        for i in range(g.query_blocks)
    ]
    assert visited(query_blocks_of, g.key_blocks) == [
        [i for i in range(g.query_blocks) if of_keys[i * t : (i + 1) * t, j * s : (j + 1) * s].any()]
        for j in range(g.key_blocks)
    ]


def poisoned(call, last):
    """The call with NaN keys and values up to position `last`: to touch them is to fail."""
    good = np.arange(call["k"].shape[2])[:, None] > last
    return call | {name: jnp.asarray(np.where(good, call[name], np.nan), call[name].dtype) for name in "kv"}


@pytest.mark.parametrize("bias", [Window(9, 0), Causal() + Window(9, 4)], ids=["window", "sum"])
def test_blocks_out_of_reach_are_never_touched(bias):
    call = {**cast(tokens(queries=40), jnp.float32), "bias": bias, "offset": 240}
    options = {name: call.pop(name) for name in ("bias", "offset")}

    @jax.jit
    def run(q, k, v):
        def loss(q):
            out, _ = attend(q, k, v, **options)
            return (out**2).sum(), out

        return jax.grad(loss, has_aux=True)(q)

    jax.tree.map(np.testing.assert_array_equal, run(**poisoned(call, 94)), run(**call))


def test_a_learned_reach_shrinks_while_training_without_recompilation():
    """Gradient descent shortens the spans; what they no longer reach is no longer visited, by the same program."""
    call = cast(tokens(key_heads=6), jnp.float32)
    traces = []

    @jax.jit
    def step(span, call):
        traces.append(span)

        def loss(span):
            bias = Causal() + Fade(span, jnp.zeros(6))
            out, _ = attend(**call, bias=bias, offset=283 - 149)
            return (out**2).mean() + 1e-2 * span.sum(), out

        (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(span)
        return span - 1000 * gradient, out, gradient

    span = jnp.linspace(60.5, 120.5, 6)
    _, out, _ = step(span, poisoned(call, 94))
    assert np.isnan(out).any()  # 134 - 120 lies in the poisoned first block of keys
    for _ in range(12):
        span, _, gradient = step(span, call)
        assert np.isfinite(gradient).all()
    assert float(span.max()) < 38.0  # 134 - 38 is in the second block
    _, out, gradient = step(span, poisoned(call, 94))
    assert np.isfinite(out).all()
    assert np.isfinite(gradient).all()
    assert len(traces) == 1


def test_reaches_intersect():
    assert (Causal() + Window(9, 4)).reach() == (0, 9)
    assert Sum((Window(9, 4), Window(30, 2))).reach() == (-2, 9)
    lo, hi = (Causal() + Fade(jnp.asarray([3.0, 20.0]), jnp.zeros(2)) + Window(9, 4)).reach()
    np.testing.assert_array_equal(lo, [0, 0])
    np.testing.assert_array_equal(hi, [3, 9])


def test_a_window_with_a_negative_side_is_refused():
    with pytest.raises(ValueError, match="left=-1"):
        Window(-1, 0)
