"""What is computed part by part is what is computed at once: values, gradients, and less memory."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import Allowed, Causal, Dot, attend, cutting, gather, in_pieces, nearest, thresholds
from jattn.core.cutting import divisor, in_parts, numbers_at_a_time
from tests.core.test_attend import agree

B, H, T, S, D = 6, 2, 7, 11, 5


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def limited(monkeypatch, numbers):
    """Parts of at most so many numbers, everywhere."""
    for module in ("pieces", "by_example"):
        monkeypatch.setattr(f"jattn.core.{module}.numbers_at_a_time", lambda _: numbers)


def looked_up(queries, found, shared):
    return jnp.einsum("td,tnd->td", queries["x"] * shared[None], gather(found, queries["index"]))


@pytest.mark.parametrize("numbers", [1, 2 * D * 3, 2 * D * T * 4, sys.maxsize], ids=["8 rows", "rows", "heads", "all"])
def test_pieces_are_the_whole(numbers, monkeypatch):
    limited(monkeypatch, numbers)
    length = 19 if numbers < 2 * D * T else T
    index = jnp.asarray(np.random.default_rng(1).integers(0, S, (B, H, length, 2)))
    x, found, shared = tokens(B, H, length, D), tokens(B, H, S, D, seed=2), tokens(D, seed=3)

    def pieces(x, found, shared):
        return in_pieces(looked_up, {"x": x, "index": index}, found, shared, 2 * D)

    def whole(x, found, shared):
        return jax.vmap(jax.vmap(looked_up, (0, 0, None)), (0, 0, None))({"x": x, "index": index}, found, shared)

    def both(function):
        out, pull = jax.vjp(function, x, found, shared)
        return out, pull(out)

    agree(jax.jit(lambda: both(pieces))(), jax.jit(lambda: both(whole))(), atol=1e-5, rtol=1e-5)
    tangents = x, found, shared
    pushed = (jax.jit(lambda x, f=f: jax.jvp(f, x, x))(tangents) for f in (pieces, whole))
    agree(*pushed, atol=1e-5, rtol=1e-5)


def test_pieces_are_what_is_asked_for(monkeypatch):
    limited(monkeypatch, 2 * D * T * 4)
    seen = []

    def function(queries, found, shared):
        seen.append(queries.shape)
        return queries

    x = tokens(B, H, T, D)
    np.testing.assert_array_equal(in_pieces(function, x, tokens(B, H, S, D), None, 2 * D), x)
    assert set(seen) == {(T, D)}
    text = str(jax.make_jaxpr(lambda x: in_pieces(function, x, x, None, 2 * D))(x))
    assert f"length={B * H // 4}" in text


def test_parts_of_several_results():
    x = np.arange(12, dtype=np.float32).reshape(6, 1, 2)
    doubled, sums = jax.jit(lambda x: in_parts(lambda part: (2 * part, part.sum(2)), 3, x))(x)
    np.testing.assert_array_equal(doubled, 2 * x)
    np.testing.assert_array_equal(sums, x.sum(2))


def test_divisors():
    assert [divisor(12, largest) for largest in (0, 1, 5, 7, 100)] == [1, 1, 4, 6, 12]
    assert divisor(0, 5) == divisor(7, 6) == 1


def test_examples_that_may_lie_on_several_devices_stay_together(monkeypatch):
    assert numbers_at_a_time(17) == 17
    monkeypatch.setattr(cutting.jax, "device_count", lambda: 2)
    assert numbers_at_a_time(17) == sys.maxsize


@pytest.mark.parametrize("bias", [None, Causal()], ids=["all", "causal"])
def test_some_examples_at_a_time_attend_as_all_do(bias, monkeypatch):
    """With a rider that all examples share, whose gradient is the sum over all of them."""
    q, k, v, shared = (tokens(B, H, n, D, seed=n) for n in (T, S, S, 1))
    allowed = jnp.asarray(np.random.default_rng(5).random((B, 1, T, S)) < 0.7)

    def both(q, k, v, shared):
        def call(q, k, v, shared):
            rows = {"features": q, "allowed": allowed, "threshold": shared}
            return attend(rows, k, v, score=Lowered(), bias=bias, mask=Allowed(), implementation="blockwise")

        out, pull = jax.vjp(call, q, k, v, shared)
        return out, pull(jax.tree.map(jnp.sin, out))

    shared = tokens(1, H, T, seed=8)
    expected = jax.jit(lambda *x: both(*x))(q, k, v, shared)
    limited(monkeypatch, H * T * S * 2)
    agree(jax.jit(lambda *x: both(*x))(q, k, v, shared), expected, atol=1e-5, rtol=1e-5)
    assert f"length={B // 2}" in str(jax.make_jaxpr(lambda *x: both(*x))(q, k, v, shared))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lowered:
    """The dot product less the query's rider."""

    def __call__(self, q, k, q_pos, k_pos):
        return Dot()(q["features"], k, q_pos, k_pos) - jnp.square(q["threshold"])[:, None] * k_pos[None]


def test_some_examples_at_a_time_are_searched_as_all_are(monkeypatch):
    """As many heads as examples, each with a bias of its own: the bias is cut by neither."""
    q, k = tokens(H, H, T, D), tokens(H, H, S, D, seed=1)

    def searched():
        return jax.jit(lambda *x: [search(*x, 3, bias=Causal(), offset=4) for search in (nearest, thresholds)])(q, k)

    expected = searched()
    limited(monkeypatch, 1)
    agree(searched(), expected, 1e-6, 1e-6)
