"""The attention gradient of value projections against NumPy on the full matrix of weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import MECHANISMS, Attention, NaturalAttention, SoftmaxAttention, value_gradient
from jattn.attention.value_gradient import COLLECTION
from jattn.core import Dot
from jattn.errors import UserError
from jattn.types import Array
from tests import calls
from tests.attention.test_softmax import tokens
from tests.calls import random_variables

B, H, D, T, C = 2, 6, 4, 7, 13


def gradients(module, variables, x, cotangent, mask=None):
    """The output, the gradients of <output, cotangent> with respect to parameters and the collection of zeros, and the
    weights."""
    variables = variables | value_gradient.zeros(module, variables["params"], x)

    @jax.jit
    def run(variables):
        def call(variables):
            return module.apply(variables, x, mask, mutable=["intermediates"])

        y, pull, sown = jax.vjp(call, variables, has_aux=True)
        return y, pull(cotangent)[0], sown["intermediates"]["weights"][0]

    return jax.device_get(run(variables))


def expected(module, variables, x, cotangent, mask, weights):
    """The output, and the gradient and the attention gradient of kernel and bias: X^T G, X^T (I + A) G and their sums
    over tokens, for each key head."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    values = np.einsum("btc,ckd->bktd", x, params["value"]["kernel"])
    values = values + params["value"]["bias"][:, None] if module.use_bias else values
    values = np.repeat(values, H // module.key_heads, axis=1)
    y = np.einsum("bhts,bhsd,hdc->btc", weights, values, params["out"]["kernel"]) + params["out"].get("bias", 0.0)
    of_heads = np.einsum("btc,hdc->bhtd", np.asarray(cotangent, np.float64), params["out"]["kernel"])
    of_values = np.einsum("bhts,bhtd->bhsd", weights, of_heads)  # of each query head

    def of_key_heads(heads, reduce):
        return reduce(heads.reshape(B, module.key_heads, -1, *heads.shape[2:]), axis=2)

    of_values, weights = of_key_heads(of_values, np.sum), of_key_heads(weights, np.mean)
    mixed = np.einsum("bkts,bksd->bktd", weights, of_values)
    if mask is not None:
        mixed = np.where((np.asarray(mask) != 0)[:, None, :, None], mixed, 0)
    found = [
        {"kernel": np.einsum("btc,bktd->ckd", np.asarray(x, np.float64), g), "bias": g.sum((0, 2))}
        for g in (of_values, of_values + mixed)
    ]
    return y, *found


MASKS = {
    "none": None,
    "padding": np.arange(T) != np.array([[0], [3]]),
    "segments": np.array([[3, 3, 3, 5, 5, 0, 0], [0, 2, 2, 1, 1, 1, 2]], np.int32),
}


# Of weights over keys and over queries each mask; of shared key heads, of rotary positions and without biases one.
@pytest.mark.parametrize(
    ("fields", "mask"),
    [
        ({}, "none"),
        ({}, "segments"),
        ({"causal": True, "num_key_heads": 2, "rotary": True}, "padding"),
        ({"num_key_heads": 1, "use_bias": False, "implementation": "dense"}, "segments"),
        ({"softmax_axis": "queries"}, "segments"),
        ({"softmax_axis": "queries"}, "padding"),
    ],
)
def test_it_is_the_gradient_mixed_by_the_weights(fields, mask):
    mask = None if MASKS[mask] is None else jnp.asarray(MASKS[mask])
    module = SoftmaxAttention(H, head_dim=D, **fields)
    x, cotangent = tokens(B, T, C), tokens(B, T, C, seed=1)
    variables = random_variables(module, x)
    found_y, found, weights = gradients(module, variables, x, cotangent, mask)
    y, plain, of_attention = expected(module, variables, x, cotangent, mask, np.asarray(weights, np.float64))
    assert jax.tree.structure(found[COLLECTION]["value"]) == jax.tree.structure(variables["params"]["value"])
    for name, leaf in found[COLLECTION]["value"].items():
        np.testing.assert_allclose(found["params"]["value"][name], plain[name], atol=2e-5, rtol=1e-4)
        np.testing.assert_allclose(leaf, of_attention[name], atol=5e-5, rtol=1e-4)
    np.testing.assert_allclose(found_y, y, atol=2e-5, rtol=1e-4)  # the collection does not change it


def test_uniform_weights_add_the_mean():
    """One head with equal scores, values = tokens, outputs summed: G = 1 for all tokens, and so is A G."""
    module = SoftmaxAttention(1, head_dim=C, use_bias=False)
    x, eye = tokens(1, T, C), np.eye(C, dtype=np.float32)
    zero = {"kernel": np.zeros((C, 1, C), np.float32)}
    params = {"query": zero, "key": zero, "value": {"kernel": eye[:, None]}, "out": {"kernel": eye[None]}}
    _, found, _ = gradients(module, {"params": params}, x, np.ones((1, T, C), np.float32))
    sums = np.broadcast_to(np.asarray(x).sum((0, 1))[:, None, None], (C, 1, C))
    np.testing.assert_allclose(found["params"]["value"]["kernel"], sums, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[COLLECTION]["value"]["kernel"], 2 * sums, rtol=1e-5, atol=1e-5)


def zeros_like(variables):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)


class Two(nn.Module):
    """A layer whose tokens attend to themselves, and one whose tokens attend to a context."""

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        x = NaturalAttention(H, head_dim=D, name="own")(x)
        return SoftmaxAttention(H, head_dim=D, name="crossed")(x, context=x[:, :5])


def test_only_attention_to_the_own_sequence_has_one():
    x = tokens(B, T, C)
    params = zeros_like(calls.shapes(Two(), x)["params"])
    assert set(value_gradient.zeros(Two(), params, x)[COLLECTION]) == {"own"}


def test_nothing_changes_unless_the_collection_is_given():
    x = tokens(B, T, C)
    assert set(calls.shapes(SoftmaxAttention(H, head_dim=D), x)) == {"params"}


class Parts(Attention):
    """Attends twice with one value projection."""

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, *, deterministic: bool = True) -> Array:
        inputs = self.begin(x, mask, None)
        q, k, v = (self.project(name, inputs.x, H, D) for name in ("query", "key", "value"))
        out = self.attend(inputs, q, k, v, score=Dot()) + self.attend(inputs, k, q, v, score=Dot())
        return self.finish(inputs, out)


def test_attention_in_several_parts_is_refused():
    x, module = tokens(B, T, C), Parts(H, head_dim=D)
    params = zeros_like(calls.shapes(module, x)["params"])
    with pytest.raises(UserError, match=r"Parts attends in several parts.*or form='published'"):
        value_gradient.zeros(module, params, x)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adaptive_span", {"max_span": 5}),
        ("kvt", {"topk": 3}),
        ("local", {"window_size": 3}),
        ("natural", {}),
        ("neighborhood", {"kernel_size": 3}),
        ("neural", {}),
        ("sparse", {"mode": "fixed", "context": 4}),
    ],
)
def test_mechanisms_that_project_values_have_it(name, options):
    """Whatever their score, and however the pairs are folded for speed."""
    module = MECHANISMS[name](H, head_dim=D, causal=True, **options)
    x, cotangent = tokens(B, T, C), tokens(B, T, C, seed=1)
    params = random_variables(module, x)["params"]
    _, found, weights = gradients(module, {"params": params}, x, cotangent)
    weights = np.asarray(weights, np.float64)
    of_heads = np.einsum("btc,hdc->bhtd", cotangent, params["out"]["kernel"])
    of_values = np.einsum("bhts,bhtd->bhsd", weights, of_heads)
    mixed = of_values + np.einsum("bhts,bhsd->bhtd", weights, of_values)
    for gradient, expected in ((found["params"], of_values), (found[COLLECTION], mixed)):
        kernel = np.einsum("btc,bhtd->chd", np.asarray(x, np.float64), expected)
        np.testing.assert_allclose(gradient["value"]["kernel"], kernel, atol=5e-5, rtol=1e-4)
