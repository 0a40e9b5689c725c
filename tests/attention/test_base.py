"""What all mechanisms share: the sentences for calls and fields that do not fit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jattn import core
from jattn.attention import Attention
from jattn.attention.base import divisors
from jattn.errors import UserError


class Plain(Attention):
    """A mechanism without type annotations, which would see most of these mistakes before it does."""

    @nn.compact
    def __call__(self, x, mask=None, *, context=None, deterministic=True):
        inputs = self.begin(x, mask, context)
        q, k, v = (
            self.project(name, tokens, self.num_heads, self.head_size(x.shape[-1]))
            for name, tokens in (("query", inputs.x), ("key", inputs.context), ("value", inputs.context))
        )
        return self.finish(inputs, self.attend(inputs, q, k, v, score=core.Dot(), deterministic=deterministic))


X, CONTEXT = jnp.zeros((2, 5, 12)), jnp.zeros((2, 3, 12))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_heads": 2, "dropout_rate": 1.0}, r"dropout_rate 1.0 .* must lie in \[0, 1\)"),
        ({"num_heads": 2, "dropout_rate": -0.1}, "dropout_rate -0.1"),
        ({"num_heads": 2, "head_dim": 0}, "head_dim is 0"),
        ({"num_heads": 2, "decode": True}, "decode=True needs causal=True"),
    ],
)
def test_fields_that_are_refused_when_the_module_is_built(fields, says):
    with pytest.raises(UserError, match=says):
        Plain(**fields)


@pytest.mark.parametrize(
    ("fields", "mask", "context", "says"),
    [
        ({"num_heads": 5}, None, None, r"num_heads 5 does not divide the width 12: choose from 1, 2, 3, 4, 6, 12, or"),
        ({}, jnp.ones((2, 4), bool), None, r"mask has shape \(2, 4\), it must be \(2, 5\)"),
        ({}, jnp.ones((2, 5), bool), CONTEXT, r"mask has shape \(2, 5\), it must be \(2, 3\)"),
        ({}, jnp.ones((2, 5)), None, "mask is float32: it must be bool"),
        ({}, jnp.ones((2, 3), jnp.int32), CONTEXT, "with a context, give a bool mask"),
        ({}, jnp.ones((2, 4, 5), bool), None, r"mask has shape \(2, 4, 5\), a mask of pairs has one of \(2, 5, 5\), "),
        ({}, jnp.ones((2, 2, 5, 3), bool), CONTEXT, r"mask of pairs has one of .*, \(2, 1, 5, 3\), \(2, 3, 5, 3\)"),
        ({}, jnp.ones((2, 5, 5), jnp.int32), None, "mask of pairs is int32: it must be bool"),
        ({"causal": True, "decode": True}, jnp.ones((2, 5, 5), bool), None, "decode=True takes a mask of keys"),
        ({}, None, CONTEXT[:1], r"context has batch axes \(1,\), x has \(2,\)"),
        ({"causal": True, "decode": True}, None, CONTEXT, "build cross-attention with decode=False"),
        ({"implementation": "fast"}, None, None, "unknown attention implementation 'fast'"),
    ],
)
def test_calls_that_are_refused(fields, mask, context, says):
    module = Plain(**({"num_heads": 3} | fields))
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(lambda: module.init(jax.random.key(0), X, mask, context=context))


def test_the_head_size_is_the_width_over_the_heads_unless_given():
    def size(**fields):
        params = jax.eval_shape(Plain(num_heads=3, **fields).init, jax.random.key(0), X)["params"]
        return params["query"]["kernel"].value.shape

    assert size() == (12, 3, 4)
    assert size(head_dim=5) == (12, 3, 5)


def test_divisors():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert divisors(1) == [1]
