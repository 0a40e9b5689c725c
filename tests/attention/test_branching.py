"""Branching against its equation in NumPy float64: each branch's own on its channels, joined and mixed."""

import dataclasses
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import MECHANISMS, BranchingAttention, BranchingConvAttention, ConvNNAttention
from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from tests import calls
from tests.attention import convnn_oracle, test_conv1d, test_softmax
from tests.calls import random_variables

B, H, D, T, S, C = 2, 3, 5, 11, 7, 13


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# Class, options and kind of mask: both branches or one of them, each kind of mask, with and without causality.
CALLS = {
    "conv, little ConvNN, causal": (
        BranchingConvAttention,
        {"branch_ratio": 0.2, "K": 2, "magnitude_type": "cosine", "causal": True, "use_bias": False},
        "padding",
    ),
    "conv, much ConvNN": (
        BranchingConvAttention,
        {"branch_ratio": 0.8, "K": 4, "convolution_type": "standard", "kernel_size": 4},
        "segments",
    ),
    "conv, no ConvNN": (BranchingConvAttention, {"branch_ratio": 0, "kernel_size": 3}, "padding"),
    "conv, nothing but ConvNN": (BranchingConvAttention, {"branch_ratio": 1, "K": 3}, "pairs"),
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
    "softmax, causal": (BranchingAttention, {"K": 3, "causal": True, "use_bias": False}, "segments"),
    "softmax, no ConvNN": (BranchingAttention, {"branch_ratio": 0.0, "K": 3}, None),
    "softmax, nothing but ConvNN": (BranchingAttention, {"branch_ratio": 1.0, "K": 3}, None),
    "softmax, context": (BranchingAttention, {"branch_ratio": 0.4, "K": 3}, "context"),
}


def arguments(call):
    """Module, x, mask, context, allowed pairs (B, H, T, S) and real tokens (B, T) of a call."""
    kind, fields, masked = CALLS[call]
    rng, x, context, keys = np.random.default_rng(1), tokens(B, T, C), None, T
    real, mask, allowed = np.ones((B, T), bool), None, np.ones((B, H, T, T), bool)
    if masked == "context":
        context, keys = tokens(B, S, 17, seed=1), S
    if masked in ("padding", "context"):
        mask = rng.random((B, keys)) < 0.8
        allowed = np.broadcast_to(mask[:, None, None], (B, H, T, keys))
    if masked == "segments":
        mask = np.array([[3] * 4 + [5] * 5 + [0] * 2, [1] * 6 + [2] * 5], np.int32)
        allowed = allowed & ((mask[:, :, None] == mask[:, None]) & (mask != 0)[:, None])[:, None]
    if masked == "pairs":
        mask = rng.random((B, T, T)) < 0.8
        allowed = np.broadcast_to(mask[:, None], (B, H, T, T))
    if masked in ("padding", "segments"):
        real = mask != 0
    module = kind(num_heads=H, head_dim=D, **fields)
    if module.causal:
        allowed = allowed & np.tril(np.ones((T, T), bool))
    return module, x, None if mask is None else jnp.asarray(mask), context, allowed, real


def oracle(module, params, x, context, allowed, real):
    """The equation: output (B, T, C), weights (B, H, T, S), and the branches' energies."""
    keys, crossed = (x, False) if context is None else (context, True)
    split, of_keys = (int(module.branch_ratio * tokens.shape[2]) for tokens in (x, keys))
    outputs, weights, energies = [], 0.0, []
    if "convnn" in params:
        own, lengths = (x[..., :split], keys[..., :of_keys]), [T] * B
        chosen = (0, 2, 5, 7, 10) if module.sampling_type == "spatial" else None
        found = convnn_oracle.oracle(module, params["convnn"], *own, allowed, chosen, lengths, crossed=crossed)
        outputs, weights, energies = [found.y], found.weights * split / C, [found.energy(real)]
    if "attention" in params:
        own = x[..., split:], keys[..., of_keys:]
        y, shares, scores = test_softmax.oracle(module, params["attention"], *own, allowed)
        outputs, weights = [*outputs, y], weights + shares * (C - split) / C
        energies.append(np.abs(scores)[allowed & real[:, None, :, None]].mean())
    if "conv1d" in params:
        y, norms = test_conv1d.oracle(module, params["conv1d"], x[..., split:], allowed)
        outputs, weights = [*outputs, y], weights + norms * (C - split) / C
    pointwise = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["pointwise"])
    return np.concatenate(outputs, -1) @ pointwise["kernel"] + pointwise.get("bias", 0.0), weights, energies


@pytest.mark.parametrize("call", CALLS)
def test_output_weights_and_energy_are_those_of_the_branches(call):
    module, x, mask, context, allowed, real = arguments(call)
    variables = random_variables(module, x, context)
    branches = {0: {module.other[0]}, 1: {"convnn"}}.get(module.branch_ratio, {"convnn", module.other[0]})
    assert set(variables["params"]) == {*branches, "pointwise"}
    expected, weights, energies = oracle(module, variables["params"], x, context, allowed, real)
    y, sown = calls.apply(module, variables, x, mask, context=context, mutable=["energies", "intermediates"])
    np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], weights, atol=2e-6, rtol=1e-5)
    if energies:
        assert set(sown["energies"]) == {"energy"}  # the whole's: an optimizer scales the block that it is in
        np.testing.assert_allclose(sown["energies"]["energy"], [np.mean(energies)], rtol=1e-5)
    else:
        assert "energies" not in sown


@pytest.mark.parametrize("ratio", [0, 1.0])
def test_the_released_conv_version_leaves_out_the_pointwise_layer_of_a_single_branch(ratio):
    x = tokens(B, T, C)
    own = {"num_heads": 1, "branch_ratio": ratio, "K": 3, "kernel_size": 3}
    published, default = (BranchingConvAttention(**own, as_published=flag) for flag in (True, False))
    variables = random_variables(published, x)
    slopes = jax.jit(jax.grad(lambda variables: published.apply(variables, x).sum()))(variables)
    assert not np.any(slopes["params"]["pointwise"]["kernel"])
    assert published.cost(T, width=C).flops < default.cost(T, width=C).flops - 2 * T * C * C


def test_the_released_softmax_version_crashes_without_one_branch():
    for ratio in (0, 1.0):
        with pytest.raises(UserError, match=rf"crashes at branch_ratio {ratio}: .*; set as_published=False"):
            BranchingAttention(num_heads=1, branch_ratio=ratio, as_published=True)
    both = BranchingAttention(num_heads=1, branch_ratio=0.5, K=2, as_published=True)
    params = jax.eval_shape(both.init, jax.random.key(0), tokens(B, T, C))["params"]
    assert "bias" in params["pointwise"]
    assert not any("bias" in layer for name in ("convnn", "attention") for layer in params[name].values())


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
            self.attention = BranchingConvAttention(1, K=3, sampling_type="random", num_samples=4)

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
def test_nothing_is_as_large_as_the_pairs(kind):
    length, module = 2048, kind(num_heads=1, K=4)
    x = jax.ShapeDtypeStruct((1, length, 8), jnp.float32)
    train = jax.grad(lambda variables, x: module.apply(variables, x).sum())
    assert calls.largest_array(train, calls.shapes(module, x), x) <= length**2 / 8


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (BranchingConvAttention, {"K": 4, "kernel_size": 5}),
        (BranchingAttention, {"K": 4, "implementation": "dense"}),
        (BranchingConvAttention, {"branch_ratio": 0, "kernel_size": 5}),
    ],
)
def test_cost_is_what_xla_counts(kind, fields):
    module = kind(num_heads=2, **fields)
    lowered, variables = calls.lowered(module, 64, 64, width=32)
    counted = lowered.compile().cost_analysis()
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
    able = module.clone(num_heads=6)
    assert set(jax.eval_shape(able.init, jax.random.key(0), x)["params"]) == {"convnn", "attention", "pointwise"}
