"""Heads computed some at a time, or one by one, each as far as its own reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import Causal, Dropout, Padding, SoftSpan, Window, attend, blockwise, by_head
from jattn.core.blocks import grid, visited, whole_lags
from tests.core.cases import HEADS, KEYS, QUERIES, cast, padding, tokens
from tests.core.test_attend import agree, differentiated, divided

SHORT_BUT_ONE = np.asarray([2.0, 3.0, 1.0, 4.0, 250.0, 2.0])
MOSTLY_LONG = np.asarray([250.0, 260.0, 255.0, 240.0, 79.0, 2.0])


def calls():
    """Key heads that two share or none, riders that all heads share, and everything else that a block may meet."""
    padded = padding()
    shared = {"features": padded["k"]["features"], "valid": padded["k"]["valid"][:, :1]}
    return {
        "two heads a key head": {**tokens(), "bias": Causal(), "offset": KEYS - QUERIES},
        "as many key heads, dropout": {
            **tokens(key_heads=HEADS),
            "bias": Causal(),
            "offset": 53,
            "dropout": Dropout(0.3, 5),
        },
        "padding, empty rows": {**padded, "k": shared, "mask": Padding(), "bias": Window(KEYS, KEYS)},
        "one query": {**tokens(queries=1), "bias": Causal(), "offset": 282},
    }


def goes_one_by_one(call):
    """Whether that is less work for the reaches of the call's key heads."""
    key_heads, queries = call["v"].shape[1], call["q"].shape[2]

    @jax.jit
    def pays(bias):
        lo, hi = (jnp.broadcast_to(end, HEADS).reshape(key_heads, -1) for end in whole_lags(bias.reach()))
        return by_head.visited(grid(queries, KEYS), (lo.min(1), hi.max(1)), call.get("offset", 0))[1]

    return bool(pays(call["bias"]))


@pytest.mark.parametrize("name", calls())
def test_any_way_equals_dense(name, monkeypatch):
    """One by one and together, by one program for reaches of either kind; and, where key heads are their own or shared,
    as many at a time as fit: three, or one."""
    with jax.enable_x64(True):
        call = cast(calls()[name], jnp.float64)
        short, long = (
            {**call, "bias": call["bias"] + SoftSpan(jnp.asarray(spans), 16)} for spans in (SHORT_BUT_ONE, MOSTLY_LONG)
        )
        assert goes_one_by_one(short)
        assert not goes_one_by_one(long)
        smooth, rest = divided(long)
        ours, dense = (differentiated(rest, implementation) for implementation in ("blockwise", "dense"))
        agree(ours(divided(short)[0]), dense(divided(short)[0]), atol=1e-10, rtol=1e-10)
        agree(ours(smooth), expected := dense(smooth), atol=1e-10, rtol=1e-10)
        if name in ("two heads a key head", "as many key heads, dropout"):
            monkeypatch.setattr(blockwise, "PAIRS", 3 * 95**2)
            agree(differentiated(rest, "blockwise")(smooth), expected, atol=1e-10, rtol=1e-10)


def test_a_head_touches_no_key_that_only_another_one_reaches():
    """Keys that no short head reaches are NaN for those heads: a program that touched them would say so."""
    call = cast(tokens(queries=93, key_heads=HEADS), jnp.float32)  # keys 0 to 282 in blocks of 95, queries from 190 on

    @jax.jit
    def train(call, span):
        def loss(call, span):
            out, _ = attend(**call, bias=Causal() + SoftSpan(span, 16), offset=190)
            return (out**2).sum(), out

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(call, span)

    hidden = (SHORT_BUT_ONE < 95)[:, None, None] & (np.arange(KEYS) < 95)[:, None]
    poisoned = {name: x if name == "q" else np.where(hidden, np.float32(np.nan), x) for name, x in call.items()}
    spans = np.float32(SHORT_BUT_ONE)
    expected, found = train(call, spans), train(poisoned, spans)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert np.isnan(train(poisoned, np.full(HEADS, 250.0, np.float32))[0][1]).any()


def test_heads_go_one_by_one_where_that_is_less_work():
    """Eight by eight blocks of 128 tokens: a reach of 48 visits 15 of them, all keys 36."""
    g, none = grid(1024, 1024), np.zeros(8, np.int32)
    counted = jax.jit(lambda reach: (by_head.visited(g, reach), visited(g, reach)))
    short, long = 48, 1024
    for ends, blocks, apart in (
        ([long] + [short] * 7, 36 + 7 * 15, True),
        ([long] * 6 + [short] * 2, 6 * 36 + 2 * 15, False),
        ([short] * 8, 8 * 15, False),
    ):
        (count, one_by_one), of_each = counted((none, np.asarray(ends, np.int32)))
        assert bool(one_by_one) == apart
        assert count == (blocks if apart else 8 * of_each)


@pytest.mark.parametrize(("length", "ways"), [(129, 2), (128, 1)])
def test_one_block_is_computed_one_way(length, ways):
    q = jax.ShapeDtypeStruct((1, HEADS, length, 5), jnp.float32)
    text = str(
        jax.make_jaxpr(lambda q: attend(q, q, q, bias=SoftSpan(jnp.asarray(SHORT_BUT_ONE), 16) + Causal())[0])(q)
    )
    assert text.count(" exp ") == 2 * ways  # of the weights and of what earlier ones shrink by
