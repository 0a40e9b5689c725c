"""What custom derivatives of attention share: only floating-point leaves have derivatives, and must be all they see."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn.types import Array, PyTree


def is_smooth(leaf: Any) -> bool:
    """True for leaves that have derivatives: a custom derivative must not see integers among them."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is static of a call: its blocks, which leaves of its operands are smooth, whether its bias is learned."""

    grid: Any
    structure: Any
    smooth: tuple[bool, ...]
    learns_bias: bool

    def divide(self, leaves: list) -> tuple[list, list]:
        """The smooth leaves, and the others."""
        pairs = list(zip(leaves, self.smooth, strict=True))
        return [leaf for leaf, yes in pairs if yes], [leaf for leaf, yes in pairs if not yes]

    def join(self, smooth: list, rest: list) -> PyTree:
        """The operands."""
        sources = {True: iter(smooth), False: iter(rest)}
        return self.structure.unflatten([next(sources[yes]) for yes in self.smooth])


def smooth_leaves(tree: PyTree) -> list[Array]:
    """The leaves that have derivatives."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_smooth(leaf)]


def filled(tree: PyTree, gradients: list[Array]) -> PyTree:
    """The tree with its smooth leaves replaced by their gradients."""
    leaves, structure = jax.tree.flatten(tree)
    new = iter(gradients)
    return structure.unflatten([next(new).astype(leaf.dtype) if is_smooth(leaf) else leaf for leaf in leaves])


def zeros(tree: PyTree) -> list[Array]:
    """Accumulators for the gradients of a tree's smooth leaves, in float32 or better."""
    return [jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in smooth_leaves(tree)]


def smooth_vjp(function: Callable, *trees: PyTree) -> tuple[Array, Callable]:
    """`jax.vjp` with respect to the smooth leaves of the arguments; pulling back gives a list for each."""
    parts = [jax.tree.flatten(tree) for tree in trees]

    def of_smooth(*smooth: list) -> Array:
        sources = [iter(leaves) for leaves in smooth]
        return function(
            *(
                structure.unflatten([next(source) if is_smooth(leaf) else leaf for leaf in leaves])
                for source, (leaves, structure) in zip(sources, parts, strict=True)
            )
        )

    return jax.vjp(of_smooth, *map(smooth_leaves, trees))


def add_slice(total: Array, new: Array, start: Array | int, axis: int = 3, first: Array | int = 0) -> Array:
    """Adds `new` to the tokens of `total` from `start` on, or to entries along another axis; of heads from `first` on.

    Where heads share `total`, its axis 1 has size 1, and `first` does not count.
    """
    if new.shape == total.shape:
        return total + new
    starts: list[Array | int] = [0] * total.ndim
    starts[1], starts[axis] = (first if total.shape[1] > 1 else 0), start
    starts = integers(starts)
    old = jax.lax.dynamic_slice(total, starts, new.shape, allow_negative_indices=False)
    return jax.lax.dynamic_update_slice(total, old + new, starts, allow_negative_indices=False)


def integers(values: Sequence[Array | int]) -> list[Array | np.int32]:
    """Indices of one type, as several of a slice have to be; constants are NumPy's, whose sign JAX knows."""
    return [np.int32(value) if isinstance(value, int) else jnp.asarray(value, jnp.int32) for value in values]


def turned(leaves: list[Array]) -> list[Array]:
    """Leaves B K G s F as B K G F s, and back; those without features as they are.

    With one leading axis in between, XLA finds that the turned product is the product of its operands in turn.
    """

    def turn(leaf: Array) -> Array:
        *leading, rows, columns = leaf.shape
        return leaf.reshape(-1, rows, columns).swapaxes(1, 2).reshape(*leading, columns, rows)

    return [turn(leaf) if leaf.ndim == 5 else leaf for leaf in leaves]
