"""One table of calls that every implementation of attention is checked on, value and gradient.

Sizes are primes where they can be, so that a swapped axis cannot pass, and no multiple of a block.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jattn.core import Allowed, Causal, Dropout, Padding, Segments, Window, attend


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """A learned score: a two-layer tanh network on [q; k], whose per-token part comes with the tokens."""

    hidden: jax.Array  # H 3
    output: jax.Array  # H 3

    def __call__(self, q, k, q_pos, k_pos):
        pairs = jnp.tanh(q["rows"][:, None] + k["rows"][None, :] + self.hidden[None, None])
        return (pairs * self.output[None, None]).sum(-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positional:
    """A learned score that needs positions; its parameter is shared by the heads."""

    frequency: jax.Array  # 1 D

    def __call__(self, q, k, q_pos, k_pos):
        phase = jnp.cos((q_pos[:, None] - k_pos[None, :])[..., None] * self.frequency[None, None])
        return jnp.einsum("td,sd,tsd->ts", q, k, phase)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fade:
    """A learned bias that falls with the lag and ends at a learned span."""

    span: jax.Array  # H
    slope: jax.Array  # H

    def __call__(self, lag):
        span = self.span.reshape(-1, *(1,) * lag.ndim)
        slope = self.slope.reshape(span.shape)
        distance = jnp.abs(lag)[None]
        inside = distance < span
        return jnp.where(inside, -slope * distance + jnp.log1p(jnp.where(inside, span - distance, 0.0)), -jnp.inf)

    def reach(self):
        return -self.span, self.span


BATCH, HEADS, KEY_HEADS, QUERIES, KEYS, HEAD_DIM, VALUE_DIM = 2, 6, 3, 149, 283, 7, 5


def tokens(seed=0, heads=HEADS, key_heads=KEY_HEADS, queries=QUERIES, keys=KEYS):
    rng = np.random.default_rng(seed)
    shapes = (heads, queries, HEAD_DIM), (key_heads, keys, HEAD_DIM), (key_heads, keys, VALUE_DIM)
    q, k, v = jax.device_put([rng.normal(size=(BATCH, *shape)) for shape in shapes])
    return {"q": q, "k": k, "v": v}


def rows(seed, heads, count):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(BATCH, heads, count, 3)))


def network(**sizes):
    call = tokens(**sizes)
    heads, queries, keys = call["q"].shape[1], call["q"].shape[2], call["k"].shape[2]
    rng = np.random.default_rng(3)
    score = Network(jnp.asarray(rng.normal(size=(heads, 3))), jnp.asarray(rng.normal(size=(heads, 3))))
    q, k = {"rows": rows(1, heads, queries)}, {"rows": rows(2, call["k"].shape[1], keys)}
    return {**call, "q": q, "k": k, "score": score}


def positional():
    frequency = jnp.asarray(np.random.default_rng(4).uniform(0.01, 0.1, size=(1, HEAD_DIM)))
    return {**tokens(), "score": Positional(frequency), "bias": Causal(), "offset": 31}


def fade(heads=HEADS):
    return Fade(jnp.asarray(np.linspace(3.3, 171.7, heads)), jnp.asarray(np.linspace(0.01, 0.2, heads)))


def padding():
    """The first example keeps 101 keys, the second none: all its rows are empty."""
    call = tokens()
    valid = np.arange(KEYS)[None, None] < np.asarray([101, 0])[:, None, None]
    return {**call, "k": {"features": call["k"], "valid": jnp.asarray(valid)}, "mask": Padding()}


def segments():
    call = tokens(queries=KEYS)
    ids = jnp.asarray(np.sort(np.random.default_rng(5).integers(0, 4, size=(BATCH, 1, KEYS)), -1))
    q, k = ({"features": call[name], "segment": ids} for name in "qk")
    return {**call, "q": q, "k": k, "mask": Segments(), "bias": Causal()}


def allowed():
    call = padding()
    pairs = jnp.asarray(np.random.default_rng(6).random((1, HEADS, QUERIES, KEYS)) < 0.3)
    return {**call, "q": {"features": call["q"], "allowed": pairs}, "mask": Allowed() & Padding()}


CASES: dict[str, Callable[[], dict]] = {
    "dot": tokens,
    "causal, equal heads": lambda: {**tokens(queries=KEYS, key_heads=HEADS), "bias": Causal()},
    "causal, more queries": lambda: {**tokens(queries=KEYS, keys=QUERIES), "bias": Causal()},
    "window, one key head": lambda: {**tokens(queries=KEYS, key_heads=1), "bias": Window(left=23, right=5)},
    "causal window beyond the keys": lambda: {**tokens(), "bias": Causal() + Window(17, 0), "offset": KEYS - 11},
    "one query": lambda: {**tokens(queries=1), "bias": Causal(), "offset": 137},
    "padding, empty rows": padding,
    "segments": segments,
    "array of pairs": allowed,
    "learned network score": lambda: {**network(), "bias": Causal(), "offset": 67},
    "learned positional score": positional,
    "learned bias": lambda: {**tokens(), "bias": fade(), "offset": 53},
    "learned score and bias, padding": lambda: {**network(), "bias": fade() + Causal(), "offset": 71},
    "dropout": lambda: {**tokens(), "bias": Causal(), "offset": 53, "dropout": Dropout(0.3, jnp.uint32(11))},
}


def cast(call, dtype):
    """The call with its floating-point leaves in this dtype."""

    def of_dtype(x):
        return jax.device_put(np.asarray(x).astype(dtype)) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x

    return jax.tree.map(of_dtype, call)


def attended(call, implementation=None):
    """out and lse of one compiled program: each operation of an eager call would be one."""
    tokens, terms = {name: call[name] for name in "qkv"}, {name: call[name] for name in call if name not in "qkv"}
    run = jax.jit(lambda tokens: attend(**tokens, **terms, implementation=implementation))
    return jax.device_get(run(tokens))
