"""Narrow bands of lags against dense attention, value and gradient, at both ends of the keys and beyond them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import ByLag, Causal, Dot, Dropout, Segments, Window, attend, explain
from jattn.core.banded import band
from jattn.errors import UserError
from tests.core import cases
from tests.core.cases import KEYS, cast, tokens
from tests.core.test_attend import agree, both


def by_lag():
    """A learned score and a learned bias of lags -7 to 22."""
    values = jnp.asarray(np.random.default_rng(7).normal(size=(cases.HEADS, 30)))
    return {**cases.network(), "bias": ByLag(values, -7), "offset": 71}


BANDED = {
    "window": lambda: {**tokens(queries=KEYS), "bias": Window(left=23, right=5)},
    "two blocks of keys": lambda: {**tokens(queries=KEYS), "bias": Window(left=140, right=0)},
    "ends past the keys": lambda: {**tokens(), "bias": Causal() + Window(17, 0), "offset": KEYS - 11},
    "all past the keys": lambda: {**tokens(), "bias": Window(17, 3), "offset": 5000},
    "begins before the keys": lambda: {**tokens(), "bias": Window(17, 3), "offset": -100},
    "one query": lambda: {**tokens(queries=1), "bias": Window(9, 0), "offset": 137},
    "wider than the keys": lambda: {**tokens(), "bias": Window(900, 400), "offset": 37},
    "learned score and bias": by_lag,
    "padding, empty rows": lambda: {**cases.padding(), "bias": Window(9, 4)},
    "segments": lambda: {**cases.segments(), "bias": Window(9, 4), "mask": Segments()},
    "dropout": lambda: {**tokens(), "bias": Window(9, 4), "offset": 53, "dropout": Dropout(0.3, jnp.uint32(11))},
}


@pytest.mark.parametrize("name", BANDED)
def test_value_and_gradient_are_those_of_dense(name):
    with jax.enable_x64(True):
        call = cast(BANDED[name](), jnp.float64)
        agree(both(call, "banded"), both(call, "dense"), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", ["window", "learned score and bias"])
def test_bfloat16_value_and_gradient(name):
    call = cast(BANDED[name](), jnp.bfloat16)
    found, expected = both(call, "banded"), both(cast(call, jnp.float32), "dense")
    assert found[0][0].dtype == jnp.bfloat16
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float32), y, atol=4e-2 * float(np.abs(y).max()))


def test_it_is_chosen_where_the_band_is_at_most_half_of_the_keys():
    def chosen(call, bias):
        return explain(**cast(call, jnp.float32), bias=bias).implementation

    assert band(1024, 1024, 0, 480).width == 544
    assert chosen(tokens(queries=1024, keys=1024), Window(448, 0)) == "banded"
    assert chosen(tokens(queries=1024, keys=1024), Window(449, 0)) == "blockwise"
    assert chosen(tokens(queries=1, keys=1024), Window(480, 0)) == "banded"
    assert chosen(tokens(), Causal()) == "blockwise"


def test_a_reach_that_is_not_known_beforehand_is_refused():
    call = cast(cases.CASES["learned bias"](), jnp.float32)
    with pytest.raises(UserError, match="do not say beforehand which lags matter"):
        attend(**call, implementation="banded")


def test_a_block_of_queries_meets_the_keys_of_the_band_and_no_more():
    call = cast(tokens(queries=1024, keys=1024), jnp.float32)

    def forward(q):
        return attend(q, call["k"], call["v"], score=Dot(), bias=Window(17, 0), implementation="banded")[0]

    text = jax.jit(forward).lower(call["q"]).as_text()
    assert "x32x49xf32>" in text
    assert "x1024x1024x" not in text
