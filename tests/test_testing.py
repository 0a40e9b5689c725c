"""Each property of the contract fails on a module that was broken on purpose.

Most of these modules break one property only; of the others it cannot be helped: undefined gradients are undefined for
causality too, and a module without equality compiles anew.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jattn.attention import Cost, SoftmaxAttention
from jattn.errors import UserError
from jattn.testing import PROPERTIES, check_mechanism


class Wrong(SoftmaxAttention):
    """Softmax attention whose output goes through `spoil(module, y, x, mask)`, a function of the field `fault`."""

    fault: str = ""

    @nn.compact
    def __call__(self, x, mask=None, *, context=None, deterministic=True):
        y = super().__call__(x, mask, context=context, deterministic=deterministic)
        return FAULTS[self.fault](self, y, x, mask)


def later_token_leaks(module, y, x, mask):
    return y + 1e-9 * jnp.roll(x, -1, axis=-2).astype(y.dtype)


def other_example_leaks(module, y, x, mask):
    return y + 1e-9 * jnp.roll(x, 1, axis=0).astype(y.dtype)


def padded_tokens_leak(module, y, x, mask):
    if mask is None or mask.dtype != jnp.bool_ or mask.shape != x.shape[:-1]:
        return y
    return y + 5e-6 * jnp.where(mask[..., None], 0.0, x).sum(-2, keepdims=True)


def depends_on_the_length(module, y, x, mask):
    return y * (1 + 0.01 * x.shape[-2])


def empty_rows_are_undefined(module, y, x, mask):
    return y if mask is None else y * jnp.where(mask.any(-1), 1.0, jnp.nan)[..., None, None]


def eager_differs(module, y, x, mask):
    return y if isinstance(x, jax.core.Tracer) else 1.01 * y


def second_batch_axis_is_reversed(module, y, x, mask):
    return y[:, ::-1] if x.ndim == 4 else y


def ignores_the_dtype(module, y, x, mask):
    return y.astype(jnp.float32)


def is_coarse_in_bfloat16(module, y, x, mask):
    return jnp.round(y) if y.dtype == jnp.bfloat16 else y


def makes_a_collection(module, y, x, mask):
    module.variable("seen", "tokens", jnp.zeros, ())
    return y


def counts_in_another_type(module, y, x, mask):
    if module.decode:
        steps = module.variable("cache", "steps", jnp.zeros, (), jnp.int32)
        if not module.is_initializing():
            steps.value = steps.value + 1.0
    return y


def differs_when_decoding(module, y, x, mask):
    return 1.01 * y if module.decode else y


def blockwise_differs(module, y, x, mask):
    return 1.01 * y if module.implementation == "blockwise" else y


def gradient_is_undefined(module, y, x, mask):
    return y + jnp.sqrt(jnp.sum(0 * x, axis=-1, keepdims=True)).astype(y.dtype)


def evaluation_draws(module, y, x, mask):
    if module.has_rng("sampling"):
        y = y + 1e-3 * jax.random.normal(module.make_rng("sampling"), y.shape)
    return y


FAULTS: dict[str, Callable] = {
    function.__name__: function
    for function in (
        later_token_leaks,
        other_example_leaks,
        padded_tokens_leak,
        depends_on_the_length,
        empty_rows_are_undefined,
        eager_differs,
        second_batch_axis_is_reversed,
        ignores_the_dtype,
        is_coarse_in_bfloat16,
        makes_a_collection,
        counts_in_another_type,
        differs_when_decoding,
        blockwise_differs,
        gradient_is_undefined,
        evaluation_draws,
    )
}


class MergesSegments(SoftmaxAttention):
    @nn.compact
    def __call__(self, x, mask=None, *, context=None, deterministic=True):
        mask = None if mask is None else mask != 0
        return super().__call__(x, mask, context=context, deterministic=deterministic)


class IgnoresMaskOfContext(SoftmaxAttention):
    @nn.compact
    def __call__(self, x, mask=None, *, context=None, deterministic=True):
        mask = mask if context is None else None
        return super().__call__(x, mask, context=context, deterministic=deterministic)


class MasksOneHead(SoftmaxAttention):
    @nn.compact
    def __call__(self, x, mask=None, *, context=None, deterministic=True):
        if mask is not None and mask.ndim == x.ndim + 1:
            mask = mask.at[..., 1:, :, :].set(True)
        return super().__call__(x, mask, context=context, deterministic=deterministic)


class NeverTurns(SoftmaxAttention):
    def turned(self, inputs, *heads):
        return heads


class NeverDrops(SoftmaxAttention):
    @nn.compact
    def __call__(self, x, mask=None, *, context=None, deterministic=True):
        return super().__call__(x, mask, context=context, deterministic=True)


class HalvesWeights(SoftmaxAttention):
    def weights(self, x, mask=None, *, context=None):
        return super().weights(x, mask, context=context) / 2


class ForgetsAParameter(SoftmaxAttention):
    def cost(self, T, S=None, *, width, batch=1, dtype_bytes=4):
        total = super().cost(T, S, width=width, batch=batch, dtype_bytes=dtype_bytes)
        return dataclasses.replace(total, params=total.params - 1)


class CountsPaddingInTheEnergy(SoftmaxAttention):
    def report(self, inputs, *call):
        super().report(inputs._replace(query_mask=None), *call)


class HasAnIdentity(SoftmaxAttention):
    tag: Any = None


def wrong(fault):
    return functools.partial(Wrong, fault=fault.__name__)


BROKEN = {
    "shapes": wrong(ignores_the_dtype),
    "batch_axes": wrong(second_batch_axis_is_reversed),
    "parameters": wrong(makes_a_collection),
    "hashable": lambda **fields: HasAnIdentity(tag=object(), **fields),
    "jit": wrong(eager_differs),
    "compiles_once": wrong(counts_in_another_type),
    "causality": wrong(later_token_leaks),
    "padding": wrong(padded_tokens_leak),
    "truncation": wrong(depends_on_the_length),
    "empty_rows": wrong(empty_rows_are_undefined),
    "segments": MergesSegments,
    "pairs": MasksOneHead,
    "context": IgnoresMaskOfContext,
    "decode": wrong(differs_when_decoding),
    "rotary": NeverTurns,
    "bfloat16": wrong(is_coarse_in_bfloat16),
    "implementations": wrong(blockwise_differs),
    "batch_independence": wrong(other_example_leaks),
    "gradients": wrong(gradient_is_undefined),
    "deterministic": wrong(evaluation_draws),
    "dropout": NeverDrops,
    "weights": HalvesWeights,
    "cost": ForgetsAParameter,
    "energies": CountsPaddingInTheEnergy,
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_fails_on_a_module_without_it(name):
    with pytest.raises(AssertionError, match=rf"^properties that do not hold:\n\n{name}: AssertionError"):
        check_mechanism(BROKEN[name], causal=True, properties=[name])


def test_all_properties_that_do_not_hold_are_named():
    with pytest.raises(AssertionError) as raised:
        check_mechanism(ForgetsAParameter, causal=True, properties=["hashable", "cost", "shapes"])
    assert "cost: AssertionError: cost counts 837 parameters, there are 838" in str(raised.value)
    assert "hashable" not in str(raised.value)
    assert "shapes" not in str(raised.value)


def test_a_crash_breaks_a_property():
    def factory(**fields):
        return SoftmaxAttention(**fields, num_key_heads=2)

    with pytest.raises(AssertionError, match="shapes: UserError: num_key_heads 2 does not divide num_heads"):
        check_mechanism(factory, causal=True, properties=["shapes"])


def test_an_unknown_property_is_refused():
    with pytest.raises(UserError, match="unknown property 'casuality': did you mean 'causality'"):
        check_mechanism(SoftmaxAttention, causal=True, properties=["casuality"])


@pytest.mark.parametrize(
    "feature", ["context", "segments", "pairs", "decode", "rotary", "dropout", "implementations", "energies"]
)
def test_what_is_lacking_must_be_refused(feature):
    with pytest.raises(AssertionError, match=r"but not refused either|lacking, but reported"):
        check_mechanism(SoftmaxAttention, causal=True, lacks={feature: "so it says"}, properties=[feature])


class Lacking(SoftmaxAttention):
    lacks: ClassVar[Mapping[str, str]] = {
        "context": "it looks at itself",
        "segments": "it knows no borders",
        "pairs": "it judges keys alone",
        "decode": "it has no memory",
        "rotary": "it knows no positions",
        "dropout": "it needs every weight",
        "implementations": "it knows one way",
    }


@pytest.mark.parametrize("feature", Lacking.lacks)
def test_what_a_class_declares_as_lacking_is_refused(feature):
    check_mechanism(Lacking, causal=True, properties=[feature])


class Average(nn.Module):
    """The mean of all real tokens: a third party's module that shares no code with ours."""

    num_heads: int
    head_dim: int | None = None
    causal: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x, mask=None, *, context=None, deterministic=True):
        gain = self.param("gain", nn.with_logical_partitioning(nn.initializers.ones, ("embed",)), (x.shape[-1],))
        weights = self.weights(x, mask, context=context)[..., 0, :, :]
        y = jnp.einsum("...ts,...sc->...tc", weights, x) * gain.reshape((1,) * (x.ndim - 1) + gain.shape)
        return y.astype(self.dtype or x.dtype)

    def weights(self, x, mask=None, *, context=None):
        if context is not None or (mask is not None and mask.dtype != jnp.bool_):
            raise ValueError("there is neither context nor packing")
        mask = jnp.ones(x.shape[:-1], bool) if mask is None else mask
        pairs = jnp.broadcast_to(mask[..., None, :], (*mask.shape, mask.shape[-1]))
        pairs = jnp.tril(pairs) if self.causal else pairs
        weights = pairs / jnp.maximum(pairs.sum(-1, keepdims=True), 1)
        return jnp.broadcast_to(weights[..., None, :, :], (*mask.shape[:-1], self.num_heads, *weights.shape[-2:]))

    def cost(self, T, S=None, *, width, batch=1, dtype_bytes=4):
        return Cost(params=width, flops=2 * batch * T * T * width, bytes=2 * dtype_bytes * batch * T * width)


@pytest.mark.parametrize("causal", [False, True])
def test_a_third_partys_module_passes(causal):
    missing = ("context", "segments", "pairs", "decode", "rotary", "dropout", "implementations", "energies")
    check_mechanism(Average, causal=causal, lacks=dict.fromkeys(missing, "an average has none"))
