"""Branching against its equation: each branch by itself on its channels, whose own tests have their oracles, joined and
mixed in NumPy float64."""

import dataclasses
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import (
    MECHANISMS,
    BranchingAttention,
    BranchingConvAttention,
    Conv1dAttention,
    ConvNNAttention,
    SoftmaxAttention,
)
from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from tests import calls
from tests.calls import random_variables

B, H, D, T, S, C = 2, 3, 5, 11, 7, 13

OTHERS = {"conv1d": Conv1dAttention, "attention": SoftmaxAttention}


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


CALLS = {
    "conv": (BranchingConvAttention, {"K": 3, "kernel_size": 4}, None),
    "conv, little ConvNN, causal": (
        BranchingConvAttention,
        {"branch_ratio": 0.2, "K": 2, "magnitude_type": "cosine", "causal": True, "use_bias": False},
        "padding",
    ),
    "conv, much ConvNN": (
        BranchingConvAttention,
        {"branch_ratio": 0.8, "K": 4, "convolution_type": "standard", "kernel_size": 3},
        "segments",
    ),
    "conv, no ConvNN": (BranchingConvAttention, {"branch_ratio": 0, "kernel_size": 3}, "padding"),
    "conv, nothing but ConvNN": (BranchingConvAttention, {"branch_ratio": 1, "K": 3}, "padding"),
    "softmax": (BranchingAttention, {"K": 3}, "segments"),
    "softmax with options": (
        BranchingAttention,
        {"branch_ratio": 0.7, "K": 5, "magnitude_type": "euclidean", "num_key_heads": 1, "qk_norm": True, "scale": 0.3},
        "pairs",
    ),
    "softmax, spatial candidates": (
        BranchingAttention,
        {"branch_ratio": 0.4, "K": 3, "sampling_type": "spatial", "num_samples": 5, "coordinate_encoding": True},
        None,
    ),
    "softmax, causal": (BranchingAttention, {"K": 3, "causal": True, "use_bias": False}, "padding"),
    "softmax, no ConvNN": (BranchingAttention, {"branch_ratio": 0.0, "K": 3}, None),
    "softmax, nothing but ConvNN": (BranchingAttention, {"branch_ratio": 1.0, "K": 3}, None),
    "softmax, context": (BranchingAttention, {"branch_ratio": 0.4, "K": 3}, "context"),
}


def arguments(call):
    """Module, x, mask and context of a call."""
    kind, fields, masked = CALLS[call]
    rng, x, context = np.random.default_rng(1), tokens(B, T, C), None
    if masked == "context":
        context = tokens(B, S, 17, seed=1)
    masks = {
        "padding": rng.random((B, T)) < 0.8,
        "segments": np.array([[3] * 4 + [5] * 5 + [0] * 2, [1] * 6 + [2] * 5], np.int32),
        "pairs": rng.random((B, T, T)) < 0.8,
        "context": rng.random((B, S)) < 0.8,
    }
    return kind(num_heads=H, head_dim=D, **fields), x, None if masked is None else jnp.asarray(masks[masked]), context


def parts(module, width):
    """Name, class and channels of the branches that have any."""
    (other,) = (name for name, kind in OTHERS.items() if isinstance(module, kind))
    split = math.floor(module.branch_ratio * width)
    found = {"convnn": (ConvNNAttention, slice(0, split)), other: (OTHERS[other], slice(split, width))}
    return {name: (kind, part) for name, (kind, part) in found.items() if part.stop > part.start}


def alone(module, kind):
    """A branch's module: those options of the whole that it has."""
    return kind(
        **{f.name: getattr(module, f.name) for f in dataclasses.fields(kind) if f.name not in ("name", "parent")}
    )


@pytest.mark.parametrize("call", CALLS)
def test_output_weights_and_energy_are_those_of_the_branches(call):
    module, x, mask, context = arguments(call)
    variables = random_variables(module, x, context)
    joined, weights, energies = [], 0.0, []
    for name, (kind, channels) in parts(module, C).items():
        branch = alone(module, kind)
        of_context = None
        if context is not None:
            split = math.floor(module.branch_ratio * 17)
            of_context = np.asarray(context)[..., :split] if name == "convnn" else np.asarray(context)[..., split:]
        own, options = {"params": variables["params"][name]}, {"mutable": ["energies", "intermediates"]}
        y, sown = calls.apply(branch, own, np.asarray(x)[..., channels], mask, context=of_context, **options)
        joined.append(np.asarray(y, np.float64))
        weights = weights + np.asarray(sown["intermediates"]["weights"][0]) * (channels.stop - channels.start) / C
        energies += jax.tree.leaves(sown.get("energies", {}))
    pointwise = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["pointwise"])
    expected = np.concatenate(joined, -1) @ pointwise["kernel"] + pointwise.get("bias", 0.0)

    @jax.jit
    def evaluate(variables, x, mask, context):
        y, sown = module.apply(variables, x, mask, context=context, mutable=["energies", "intermediates"])
        return y, sown, module.apply(variables, x, mask, context=context, method="weights")

    y, sown, found = evaluate(variables, x, mask, context)
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(found, weights, atol=2e-6, rtol=1e-5)
    np.testing.assert_array_equal(sown["intermediates"]["weights"][0], found)
    if energies:
        assert set(sown["energies"]) == {"energy"}  # the whole's: an optimizer scales the block that it is in
        np.testing.assert_allclose(sown["energies"]["energy"], [np.mean(energies)], rtol=1e-5)
    else:
        assert "energies" not in sown


@pytest.mark.parametrize(
    ("kind", "ratio", "single"),
    [
        (BranchingAttention, 0.0, SoftmaxAttention),
        (BranchingAttention, 1.0, ConvNNAttention),
        (BranchingConvAttention, 0, Conv1dAttention),
        (BranchingConvAttention, 1, ConvNNAttention),
    ],
)
def test_with_an_identity_as_pointwise_layer_the_only_branch_is_left(kind, ratio, single):
    module, x = kind(num_heads=H, head_dim=D, branch_ratio=ratio, K=4), tokens(B, T, C)
    params = random_variables(module, x)["params"]
    (own,) = (params[name] for name in params if name != "pointwise")
    pointwise = {"kernel": np.eye(C, dtype=np.float32), "bias": np.zeros(C, np.float32)}
    expected = calls.apply(alone(module, single), {"params": own}, x)
    y = calls.apply(module, {"params": params | {"pointwise": pointwise}}, x)
    np.testing.assert_allclose(y, expected, atol=2e-6)


@pytest.mark.parametrize("ratio", [0, 1.0])
def test_the_released_conv_version_leaves_out_the_pointwise_layer_of_a_single_branch(ratio):
    x = tokens(B, T, C)
    own = {"num_heads": 1, "branch_ratio": ratio, "K": 3, "kernel_size": 3}
    published, default = (BranchingConvAttention(**own, as_published=flag) for flag in (True, False))

    def slope(module):
        variables = random_variables(module, x)
        slopes = jax.jit(jax.grad(lambda variables: module.apply(variables, x).sum()))(variables)
        return slopes["params"]["pointwise"]["kernel"]

    assert np.all(np.asarray(slope(published)) == 0)
    assert np.all(np.asarray(slope(default)) != 0)
    assert published.cost(T, width=C).flops < default.cost(T, width=C).flops - 2 * T * C * C


def test_the_released_softmax_version_crashes_without_one_branch_and_the_default_does_not():
    for ratio in (0, 1.0):
        with pytest.raises(UserError, match=rf"crashes at branch_ratio {ratio}: .*; set as_published=False"):
            BranchingAttention(num_heads=1, branch_ratio=ratio, as_published=True)
    both = BranchingAttention(num_heads=1, branch_ratio=0.5, K=2, as_published=True)
    params = jax.eval_shape(both.init, jax.random.key(0), tokens(B, T, C))["params"]
    assert "bias" in params["pointwise"]
    assert not any("bias" in layer for name in ("convnn", "attention") for layer in params[name].values())
    assert np.all(np.isfinite(evaluated(BranchingAttention(num_heads=1, branch_ratio=0, K=2))))


def evaluated(module):
    x = tokens(B, T, C)
    return calls.apply(module, random_variables(module, x), x)


@pytest.mark.parametrize("name", ["branching_conv", "branching_attention"])
def test_all_options_of_both_branches_are_options_with_the_same_defaults(name):
    whole = MECHANISMS[name]
    hints = typing.get_type_hints(whole)
    own = {field.name: (field.default, hints[field.name]) for field in dataclasses.fields(whole)}
    for kind in (ConvNNAttention, whole.other[1]):
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.name not in ("parent", "name", "num_heads"):  # ConvNN alone has one head unless it is told
                assert own[field.name] == (field.default, hints[field.name]), (kind, field.name)
    options = {"branch_ratio": 0.25, "K": 4, "magnitude_type": "cosine", "max_length": 32, "num_heads": 2}
    options |= {"kernel_size": 3} if name == "branching_conv" else {"qk_norm": True}
    assert mechanism(name, options).module(num_heads=8) == whole(**options)
    assert mechanism(name, {}).module(num_heads=8) == whole(num_heads=8)


def test_random_candidates_of_evaluation_are_those_that_its_weights_show():
    class Model(nn.Module):
        def setup(self):
            self.attention = BranchingAttention(1, K=3, sampling_type="random", num_samples=4)

        def __call__(self, x, context=None):
            return self.attention(x)

        def weights(self, x):
            return self.attention.weights(x)

    model, x = Model(), tokens(B, T, C)
    variables = random_variables(model, x)
    _, sown = calls.apply(model, variables, x, mutable=["intermediates"])
    found = calls.apply(model, variables, x, method="weights")
    np.testing.assert_allclose(sown["intermediates"]["attention"]["weights"][0], found, atol=1e-6)


@pytest.mark.parametrize("kind", [BranchingConvAttention, BranchingAttention])
def test_64_tokens_decoded_one_by_one_are_those_of_a_full_pass(kind):
    module, x = kind(num_heads=2, K=5, causal=True), tokens(1, 64, 8)
    variables = random_variables(module, x)
    full, decoder = calls.apply(module, variables, x), module.clone(decode=True)
    cache = calls.init(decoder, x)["cache"]

    def step(cache, token):
        y, updated = decoder.apply({**variables, "cache": cache}, token[:, None], mutable=["cache"])
        return updated["cache"], y[:, 0]

    _, found = jax.jit(lambda cache: jax.lax.scan(step, cache, x.swapaxes(0, 1)))(cache)
    np.testing.assert_allclose(np.asarray(found).swapaxes(0, 1), full, atol=2e-5)


@pytest.mark.parametrize("kind", [BranchingConvAttention, BranchingAttention])
def test_nothing_is_as_large_as_the_pairs(kind):
    length, module = 2048, kind(num_heads=1, K=4)
    x = jax.ShapeDtypeStruct((1, length, 8), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def train(variables, x):
        return jax.grad(lambda variables: module.apply(variables, x).sum())(variables)

    memory = jax.jit(train).lower(variables, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * length**2  # one matrix of pairs


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (BranchingConvAttention, {"K": 4, "kernel_size": 5}),
        (BranchingAttention, {"K": 4, "implementation": "dense"}),
        (BranchingConvAttention, {"branch_ratio": 0, "kernel_size": 5}),
    ],
)
def test_cost_is_what_xla_counts(kind, fields):
    module, x = kind(num_heads=2, **fields), jax.ShapeDtypeStruct((2, 64, 32), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    counted = jax.jit(module.apply).lower(variables, x).compile().cost_analysis()
    cost = module.cost(64, width=32, batch=2)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert cost.flops == pytest.approx(counted["flops"], rel=0.05)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"branch_ratio": 1.5}, r"branch_ratio is 1\.5: it is a share of the channels, from 0 to 1"),
        ({"branch_ratio": -1}, "branch_ratio is -1: it is a share"),
        ({"K": 0}, "K is 0"),
        ({"kernel_size": 0}, "kernel_size is 0"),
        ({"as_published": True, "causal": True}, "no causal form"),
        ({"implementation": "dense"}, "BranchingConvAttention has no choice of implementation"),
    ],
)
def test_impossible_options_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        BranchingConvAttention(num_heads=2, **fields)


def test_heads_must_divide_the_channels_of_both_branches():
    module, x = BranchingAttention(num_heads=4, branch_ratio=0.25), tokens(B, T, 24)
    sentence = (
        r"branch_ratio 0\.25 gives ConvNN 6 and attention 18 of 24 channels, which num_heads 4 does not divide: "
        r"choose num_heads from 1, 2, 3, 6, another branch_ratio, or set head_dim"
    )
    with pytest.raises(UserError, match=sentence):
        module.init(jax.random.key(0), x)
    for able in (module.clone(num_heads=6), module.clone(head_dim=5)):
        assert set(jax.eval_shape(able.init, jax.random.key(0), x)["params"]) == {"convnn", "attention", "pointwise"}
