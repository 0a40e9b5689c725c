"""Projections to heads and back: axis names, initial variance, bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention.projections import FromHeads, ToHeads
from tests import calls

B, T, C, H, D = 2, 5, 48, 3, 40


def test_axis_names():
    to_heads = jax.eval_shape(ToHeads(H, D).init, jax.random.key(0), jnp.zeros((B, T, C)))["params"]
    from_heads = jax.eval_shape(FromHeads(C).init, jax.random.key(0), jnp.zeros((B, H, T, D)))["params"]
    names = {(name, leaf.value.shape): leaf.names for name, leaf in (*to_heads.items(), *from_heads.items())}
    assert names == {
        ("kernel", (C, H, D)): ("embed", "heads", "head_dim"),
        ("bias", (H, D)): ("heads", "head_dim"),
        ("kernel", (H, D, C)): ("heads", "head_dim", "embed"),
        ("bias", (C,)): ("embed",),
    }


@pytest.mark.parametrize(
    ("module", "shape", "inputs"), [(ToHeads(H, D), (B, T, C), C), (FromHeads(C), (B, H, T, D), H * D)]
)
def test_initial_kernels_keep_the_variance(module, shape, inputs):
    params = calls.init(module, jnp.zeros(shape))["params"]
    # 5,760 draws: the standard deviation is known to about 1 %.
    np.testing.assert_allclose(params["kernel"].std(), inputs**-0.5, rtol=0.04)
    assert not params["bias"].any()


def test_heads_are_slices_of_one_matrix():
    x = jax.random.normal(jax.random.key(0), (B, T, C))
    params = calls.init(ToHeads(H, D), x)["params"]
    kernel, bias = params["kernel"], params["bias"] + np.arange(H * D, dtype=np.float32).reshape(H, D)
    y = calls.apply(ToHeads(H, D), {"params": {"kernel": kernel, "bias": bias}}, x)
    expected = np.asarray(x) @ kernel.reshape(C, H * D) + bias.reshape(H * D)
    np.testing.assert_allclose(y, expected.reshape(B, T, H, D).swapaxes(1, 2), rtol=1e-5, atol=1e-5)


def test_merging_sums_over_heads():
    x = jax.random.normal(jax.random.key(0), (B, H, T, D))
    kernel, bias = jax.random.normal(jax.random.key(1), (H, D, C)), np.arange(1, C + 1, dtype=np.float32)
    y = calls.apply(FromHeads(C), {"params": {"kernel": kernel, "bias": bias}}, x)
    expected = sum(np.asarray(x)[:, h] @ np.asarray(kernel)[h] for h in range(H)) + np.asarray(bias)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_a_dtype_governs_the_computation_not_the_parameters():
    module = ToHeads(H, D, use_bias=False, dtype=jnp.bfloat16)
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.ones((B, T, C)))
    assert y.dtype == jnp.bfloat16
    assert set(variables["params"]) == {"kernel"}
    assert variables["params"]["kernel"].value.dtype == jnp.float32
