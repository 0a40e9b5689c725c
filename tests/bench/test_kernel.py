"""A kernel is what its module computes between the projections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention import cost
from jattn.attention.mechanism import mechanism
from jattn.attention.projections import FromHeads, ToHeads
from jattn.bench.kernel import kernel
from jattn.errors import UserError
from jattn.literals import parse_calls
from tests import calls

B, T, H, C = 2, 11, 3, 15
X = jax.random.normal(jax.random.key(7), (B, T, C))


def module(text, **common):
    (call,) = parse_calls(text)
    return mechanism(*call).module(**{"num_heads": H, **common})


@pytest.mark.parametrize(
    "text",
    ["softmax", "neural", "efficient", "convnn(K=3, num_heads=3)", "conv1d(kernel_size=3)", "local(window_size=4)"],
)
def test_projections_around_the_kernel_give_the_module(text):
    made = module(text)
    found = kernel(made, X, jax.random.key(0))
    params = calls.init(made, X)["params"]
    operands = dict(found.operands)
    operands["heads"] = {
        name: calls.apply(ToHeads(H, C // H), {"params": params[name]}, X) for name in found.operands["heads"]
    }
    assert {name: heads.shape for name, heads in found.operands["heads"].items()} == {
        name: heads.shape for name, heads in operands["heads"].items()
    }
    out = calls.apply(FromHeads(C), {"params": params["out"]}, jax.jit(found.call)(operands))
    np.testing.assert_allclose(out, calls.apply(made, {"params": params}, X), rtol=2e-5, atol=2e-6)


def test_operands_are_what_the_kernel_reads():
    assert set(kernel(module("softmax"), X, jax.random.key(0)).operands["params"]) == set()
    neural = kernel(module("neural"), X, jax.random.key(0)).operands
    assert (set(neural["params"]), set(neural["heads"])) == ({"score"}, {"query", "key", "value"})
    assert "x" not in neural
    efficient = kernel(module("efficient"), X, jax.random.key(0)).operands
    assert (set(efficient["heads"]), efficient["x"].shape) == ({"query"}, X.shape)
    call = kernel(module("efficient"), X, jax.random.key(0)).call
    gradient = jax.jit(jax.grad(lambda operands: jnp.sum(call(operands))))(efficient)
    assert jnp.any(gradient["x"] != 0)


def test_flops_are_those_without_projections():
    sizes = {"batch": B, "heads": H, "key_heads": H, "score": 2 * 5 + 1, "features": (5, 5), "values": 5}
    attention = cost.attention(T, T, **sizes, causal=False, dtype_bytes=4)
    assert kernel(module("softmax"), X, jax.random.key(0)).flops == attention.flops


def test_a_mixture_has_no_kernel():
    with pytest.raises(UserError, match="BranchingAttention is made of several mechanisms"):
        kernel(module("branching_attention(K=3)", num_heads=1), X, jax.random.key(0))
