"""Heads computed some at a time, or one by one, each as far as its own reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import Causal, Dropout, Padding, SoftSpan, attend, blockwise, by_head
from jattn.core.blocks import grid, visited
from tests.core.cases import HEADS, KEYS, cast, padding, tokens
from tests.core.test_attend import agree, both

SHORT_BUT_ONE = jnp.asarray([2.0, 3.0, 1.0, 4.0, 250.0, 2.0])


def calls():
    """With key heads shared by two or by all, riders shared by all heads, and everything else that a block may meet."""
    bias = SoftSpan(SHORT_BUT_ONE, 16) + Causal()
    padded = padding()
    shared = {"features": padded["k"]["features"], "valid": padded["k"]["valid"][:, :1]}
    return {
        "two heads a key head": {**tokens(queries=KEYS), "bias": bias},
        "as many key heads, dropout": {
            **tokens(key_heads=HEADS),
            "bias": bias,
            "offset": 53,
            "dropout": Dropout(0.3, 5),
        },
        "padding, empty rows": {**padded, "k": shared, "mask": Padding(), "bias": SoftSpan(SHORT_BUT_ONE, 16)},
        "one query": {**tokens(queries=1), "bias": bias, "offset": 282},
    }


@pytest.mark.parametrize("name", calls())
@pytest.mark.parametrize(
    ("worth", "pairs"),
    [(0.0, 2**19), (9.0, 2**19), (0.0, 3 * 95**2)],
    ids=["together", "one by one", "three at a time, or one key head of two"],
)
def test_any_way_equals_dense(name, worth, pairs, monkeypatch):
    monkeypatch.setattr(by_head, "WORTH", worth)
    monkeypatch.setattr(blockwise, "PAIRS", pairs)
    with jax.enable_x64(True):
        call = cast(calls()[name], jnp.float64)
        agree(both(call, "blockwise"), both(call, "dense"), atol=1e-10, rtol=1e-10)


def test_a_head_touches_no_key_that_only_another_one_reaches():
    """Keys that no short head reaches are NaN for those heads: a program that touched them would say so."""
    call = cast(tokens(queries=93, key_heads=HEADS), jnp.float32)  # keys 0 to 282 in blocks of 95, queries from 190 on

    @jax.jit
    def train(call, span):
        def loss(call, span):
            out, _ = attend(**call, bias=Causal() + SoftSpan(span, 16), offset=190)
            return (out**2).sum(), out

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(call, span)

    poisoned = {name: x if name == "q" else x.at[:, SHORT_BUT_ONE < 95, :95].set(jnp.nan) for name, x in call.items()}
    expected, found = train(call, SHORT_BUT_ONE), train(poisoned, SHORT_BUT_ONE)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert np.isnan(train(poisoned, jnp.full(HEADS, 250.0))[0][1]).any()


def test_heads_go_one_by_one_where_that_is_less_work():
    """Eight by eight blocks of 128 tokens: a reach of 48 visits 15 of them, all keys 36."""
    g, none = grid(1024, 1024), jnp.zeros(8, jnp.int32)
    short, long = 48, 1024
    for ends, blocks, apart in (
        ([long] + [short] * 7, 36 + 7 * 15, True),
        ([long] * 6 + [short] * 2, 6 * 36 + 2 * 15, False),
        ([short] * 8, 8 * 15, False),
    ):
        reach = none, jnp.asarray(ends, jnp.int32)
        count, one_by_one = by_head.visited(g, reach)
        assert bool(one_by_one) == apart
        assert count == (blocks if apart else 8 * visited(g, reach))


@pytest.mark.parametrize(("length", "ways"), [(129, 2), (128, 1)])
def test_one_block_is_computed_one_way(length, ways):
    q = jax.ShapeDtypeStruct((1, HEADS, length, 5), jnp.float32)
    text = str(jax.make_jaxpr(lambda q: attend(q, q, q, bias=SoftSpan(SHORT_BUT_ONE, 16) + Causal())[0])(q))
    assert text.count(" exp ") == 2 * ways  # of the weights and of what earlier ones shrink by
