import jax
import jax.numpy as jnp

from jattn.optim.parameters import kernels, kernels_and_embeddings, linear, matrix_shape, path_name

PARAMS = {
    "block_0": {
        "attention": {
            "query": {"kernel": jnp.zeros((5, 2, 3)), "bias": jnp.zeros((2, 3))},
            "out": {"kernel": jnp.zeros((2, 3, 5)), "bias": jnp.zeros(5)},
            "conv": {"kernel": jnp.zeros((9, 3, 3))},
            "score": {"hidden_kernel": jnp.zeros((3, 7))},
        },
        "norm": {"scale": jnp.zeros(5)},
    },
    "patch": {"kernel": jnp.zeros((4, 4, 1, 5))},
    "position": {"embedding": jnp.zeros((11, 5))},
    "gain": {"kernel": jnp.zeros(5)},
}


def test_kernels_are_known_by_their_names():
    found = {path_name(path) for path, is_kernel in jax.tree.leaves_with_path(kernels(PARAMS)) if is_kernel}
    assert found == {
        "block_0/attention/query/kernel",
        "block_0/attention/out/kernel",
        "block_0/attention/conv/kernel",
        "block_0/attention/score/hidden_kernel",
        "patch/kernel",
    }


def test_linear_are_the_kernels_of_no_convolution():
    params = PARAMS | {"patch_embedding": {"projection": {"kernel": jnp.zeros((4, 4, 1, 5))}}}
    found = {path_name(path) for path, is_linear in jax.tree.leaves_with_path(linear(params)) if is_linear}
    kept = {path_name(path) for path, is_kernel in jax.tree.leaves_with_path(kernels(params)) if is_kernel}
    assert kept - found == {"block_0/attention/conv/kernel", "patch_embedding/projection/kernel"}
    assert found < kept


def test_tables_are_embeddings():
    both = {path_name(path) for path, yes in jax.tree.leaves_with_path(kernels_and_embeddings(PARAMS)) if yes}
    only = {path_name(path) for path, yes in jax.tree.leaves_with_path(kernels(PARAMS)) if yes}
    assert both - only == {"position/embedding"}
    assert only < both


def test_matrices_have_inputs_as_rows():
    shapes = {
        path_name(path): matrix_shape(path, leaf) for path, leaf in jax.tree.leaves_with_path(PARAMS) if leaf.ndim >= 2
    }
    assert shapes["block_0/attention/query/kernel"] == (5, 6)
    assert shapes["block_0/attention/out/kernel"] == (6, 5)
    assert shapes["block_0/attention/conv/kernel"] == (27, 3)
    assert shapes["block_0/attention/score/hidden_kernel"] == (3, 7)
    assert shapes["patch/kernel"] == (16, 5)
