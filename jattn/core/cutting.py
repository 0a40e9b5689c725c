"""A function of one part of its arguments after another."""

import math
import sys
from collections.abc import Callable

import jax

from jattn.types import Array, PyTree


def in_parts(function: Callable[[PyTree], PyTree], parts: int, tree: PyTree) -> PyTree:
    """`function` of each of so many equal parts of the leaves' first axis, one by one; its results as one array again.

    Between the loop and what is around it arrays are flat: of an array with an axis of size 1 XLA makes a copy there,
    as it lays out such axes in another order than loops want.
    """
    if parts == 1:
        return function(tree)
    leaves, structure = jax.tree.flatten(tree)
    shapes = [(leaf.shape[0] // parts, *leaf.shape[1:]) for leaf in leaves]
    traced = []  # a part's results, for their shapes: to ask for these would trace the function once more

    def part(flat: list[Array]) -> PyTree:
        out = function(structure.unflatten([leaf.reshape(shape) for leaf, shape in zip(flat, shapes, strict=True)]))
        traced.append(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), out))
        return jax.tree.map(lambda leaf: leaf.reshape(leaf.size), out)

    flat = [leaf.reshape(parts, math.prod(shape)) for leaf, shape in zip(leaves, shapes, strict=True)]
    out = jax.lax.map(part, flat)
    return jax.tree.map(lambda leaf, one: leaf.reshape(parts * one.shape[0], *one.shape[1:]), out, traced[-1])


def numbers_at_a_time(on_cpu: int) -> int:
    """How many numbers of one kind a part may make: on a CPU what was measured, on other devices as many as one has
    to, since there many small operations one after another cost more than memory does."""
    if jax.device_count() > 1 and jax.sharding.get_abstract_mesh().empty:
        return sys.maxsize  # examples may lie on several devices, which a loop over them would have to fetch
    return on_cpu if jax.default_backend() == "cpu" else 2**26


def divisor(number: int, largest: int) -> int:
    """The largest divisor of a number that is not above another; at least 1."""
    return next(size for size in range(max(1, min(largest, number)), 0, -1) if number % size == 0)
