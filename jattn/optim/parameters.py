"""What an optimizer has to know about a parameter, read off its path.

A parameter's leaf name says what it is: `kernel` (or a name that ends with `_kernel`) is a matrix, however
many axes its heads or its patch spread it over; everything else is a bias, a scale, an embedding or a position
table. The number of axes would not do: the biases of attention are (H, D).
"""

import math

import jax
from optax.contrib import MuonDimensionNumbers

from jattn.types import PyTree

OUTPUT_PROJECTIONS = ("out", "conv")
"""Modules all of whose kernel's axes but the last are inputs: heads are merged (H, D, C), taps are summed (k, D, D)."""

CONVOLUTIONS = ("conv", "patch_embedding")
"""Modules, or what is in them, that convolve."""


def path_name(path: tuple) -> str:
    """A parameter's path as `block_0/attention/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_kernel(path: tuple, parameter: jax.Array) -> bool:
    """Whether the parameter is a matrix that multiplies activations: see the module's docstring."""
    name = path_name(path).rpartition("/")[2]
    return parameter.ndim >= 2 and (name == "kernel" or name.endswith("_kernel"))


def kernels(params: PyTree) -> PyTree:
    """True at kernels, False elsewhere."""
    return jax.tree.map_with_path(is_kernel, params)


def linear(params: PyTree) -> PyTree:
    """True at the kernels of dense layers, which are no convolutions over pictures, tokens or ranks."""

    def is_linear(path: tuple, parameter: jax.Array) -> bool:
        return is_kernel(path, parameter) and not set(path_name(path).split("/")) & set(CONVOLUTIONS)

    return jax.tree.map_with_path(is_linear, params)


def kernels_and_embeddings(params: PyTree) -> PyTree:
    """True at kernels and at tables of tokens and positions, False elsewhere: what nanoGPT lets decay."""

    def is_either(path: tuple, parameter: jax.Array) -> bool:
        return is_kernel(path, parameter) or path_name(path).endswith("/embedding")

    return jax.tree.map_with_path(is_either, params)


def matrix_axes(path: tuple, kernel: jax.Array) -> MuonDimensionNumbers:
    """Which axes of a kernel are the rows (inputs) and which the columns (outputs) of its matrix.

    (C, F): rows C.  (C, H, D), a projection to heads: rows C, columns H D.  (H, D, C), the projection back, and
    convolutions over tokens or ranks (both of modules named in `OUTPUT_PROJECTIONS`), and over pictures (..., inputs,
    outputs): columns are the last axis.
    """
    axes = tuple(range(kernel.ndim))
    module = path_name(path).split("/")[-2:][0]
    if kernel.ndim > 3 or module in OUTPUT_PROJECTIONS:
        return MuonDimensionNumbers(axes[:-1], axes[-1:])
    return MuonDimensionNumbers(axes[:1], axes[1:])


def matrix_shape(path: tuple, kernel: jax.Array) -> tuple[int, int]:
    """Rows and columns of a kernel's matrix."""
    axes = matrix_axes(path, kernel)
    return tuple(math.prod(kernel.shape[i] for i in group) for group in axes)
