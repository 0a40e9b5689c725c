"""Traced functions of any shapes, evaluated on arrays whose axes are powers of two.

Triton takes no other arrays, cannot slice or join them, and multiplies matrices only. A score may be written for seven
features all the same: it is traced once, on the shapes that it was written for, and what was traced is evaluated here,
operation by operation, on arrays that are filled up. What fills an axis up may be any finite number: it is left out
wherever an axis is summed or searched. So no score needs to know of it.

Of an array, leading axes of size 1 are left away, axes are filled up to powers of two, and floating-point numbers may
be of a narrower type than was traced: they are widened before anything is computed of them, but for products of
matrices, which take the narrower type of the two.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jattn.types import Array, Float, Int

# fmt: off
ELEMENTWISE = frozenset([
    "abs", "add", "add_any", "and", "atan2", "ceil", "clamp", "convert_element_type", "cos", "cosh", "div", "eq", "exp",
    "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max",
    "min", "mul", "ne", "neg", "not", "or", "pow", "rem", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic",
    "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor",
])
# fmt: on
CALLS = {
    "jit": "jaxpr",
    "remat2": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
REDUCTIONS: dict[str, tuple[Callable, Callable]] = {
    "reduce_sum": (jnp.sum, lambda dtype: 0),
    "reduce_max": (jnp.max, lambda dtype: _extreme(dtype, "min")),
    "reduce_min": (jnp.min, lambda dtype: _extreme(dtype, "max")),
}
_SMALLEST_PRODUCT = 16  # sizes of matrices that tensor cores take


def physical(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of the array that stands for one of this shape."""
    first = next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return tuple(filled(size) for size in shape[first:])


def filled(size: int) -> int:
    """The power of two that this size is filled up to."""
    return 1 << max(size - 1, 0).bit_length()


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of an array in memory, of which columns are read only where the function looks them up.

    ref: of all rows. rows: which of them; past the last one, the last is read.
    """

    ref: Any
    rows: Int[Array, " t"]

    def columns(self, index: Int[Array, " s"]) -> Array:
        """Entries (rows, index)."""
        shape = self.rows.size, index.size
        last_row, last_column = (size - 1 for size in self.ref.shape)
        rows = jnp.broadcast_to(jnp.minimum(self.rows, last_row)[:, None], shape)
        return self.ref[rows, jnp.broadcast_to(jnp.clip(index, 0, last_column)[None, :], shape)]


@dataclasses.dataclass(frozen=True)
class _ByRow:
    """A single number that is the sum of these: what a sum over a whole tile is kept as, while nobody asks for more."""

    parts: Float[Array, " t"]


def evaluate(traced: ClosedJaxpr, *arguments: Any) -> list[Array]:
    """The function's results for arguments of physical shapes, or `Rows`."""
    found = _evaluate(traced.jaxpr, traced.consts, arguments)
    return [jnp.asarray(x.parts.sum() if isinstance(x, _ByRow) else x) for x in found]


def evaluate_by_row(traced: ClosedJaxpr, *arguments: Any, rows: int) -> list[Array]:
    """The same, results that are single numbers as so many numbers to be summed.

    To sum a whole tile the warps of a program must wait for each other; to sum its rows, they need not.
    """

    def of_rows(x: Any, shape: Sequence[int]) -> Array:
        if isinstance(x, _ByRow):
            if x.parts.size == rows:
                return x.parts
            x = x.parts.sum()
        return jnp.asarray(x) if physical(shape) else jnp.where(jnp.arange(rows) == 0, x, 0.0)

    found = _evaluate(traced.jaxpr, traced.consts, arguments)
    return [of_rows(x, shape) for x, shape in zip(found, (aval.shape for aval in traced.out_avals), strict=True)]


def _evaluate(jaxpr: Any, consts: Sequence, arguments: Sequence) -> list:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        found = _apply(equation, [value(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, operands: list) -> list:
    name = equation.primitive.name
    if name in CALLS:
        return _evaluate(*called(equation), operands)
    (out,), shapes = (var.aval for var in equation.outvars), [atom.aval.shape for atom in equation.invars]
    if any(isinstance(x, _ByRow) for x in operands):
        found = _linear(name, operands, out)
        if found is not None:
            return [found]
        operands = [x.parts.sum() if isinstance(x, _ByRow) else x for x in operands]
    if name in ELEMENTWISE:
        operands = [_spread(_wide(x, atom.aval), out.shape) for x, atom in zip(operands, equation.invars, strict=True)]
        if not any(isinstance(x, jax.core.Tracer) or jnp.ndim(x) for x in operands):
            # Of constants alone: Triton's rules for one operand do not take them.
            with jax.ensure_compile_time_eval():
                return [np.asarray(equation.primitive.bind(*operands, **equation.params))[()]]
        return [equation.primitive.bind(*operands, **equation.params)]
    if name == "broadcast_in_dim":
        return [_broadcast(operands[0], shapes[0], out.shape, [*map(int, equation.params["broadcast_dimensions"])])]
    if name in ("reshape", "squeeze"):
        return [_reshape(operands[0], shapes[0], out.shape)]
    if name == "iota":
        return [_iota(out, equation.params["dimension"])]
    if name == "transpose":
        return [_stripped(_whole(operands[0], shapes[0]).transpose(equation.params["permutation"]), out.shape)]
    if name in REDUCTIONS:
        operand = _wide(operands[0], equation.invars[0].aval)
        if name == "reduce_sum" and operand.ndim == 2 and not physical(out.shape):
            return [_ByRow(_all_without_filling(operand, shapes[0], equation.params["axes"]).sum(1))]
        return [_reduce(name, operand, shapes[0], equation.params["axes"], out.shape)]
    if name == "dot_general":
        return [_product(*map(_whole, operands, shapes), *shapes, out, equation.params)]
    rows, index = operands  # a gather: see jattn.core.evaluable
    return [rows.columns(index.reshape(-1))]


def _linear(name: str, operands: list, out: Any) -> _ByRow | None:
    """An operation on single numbers that sums may be left for later in, or None."""
    parts = [x.parts if isinstance(x, _ByRow) else None for x in operands]
    first, last = parts[0], parts[-1]
    if physical(out.shape):
        return None
    if name in ("reshape", "squeeze", "broadcast_in_dim", "reduce_sum"):
        return _ByRow(first)
    if name == "neg":
        return _ByRow(-first)
    if name in ("add", "add_any") and first is not None and last is not None and first.shape == last.shape:
        return _ByRow(first + last)
    if name == "mul" and (first is None) != (last is None):
        return _ByRow(operands[0] * last if first is None else first * operands[1])
    if name == "div" and last is None:
        return _ByRow(first / operands[1])
    return None


def called(equation: Any) -> tuple[Any, Sequence]:
    """The function that an operation of `CALLS` calls, and its constants."""
    jaxpr = equation.params[CALLS[equation.primitive.name]]
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def _wide(x: Any, traced: Any) -> Any:
    narrow = jnp.issubdtype(traced.dtype, jnp.floating) and jnp.result_type(x) != traced.dtype
    return jnp.asarray(x, traced.dtype) if narrow else x


def _spread(x: Any, shape: Sequence[int]) -> Any:
    """An operand of an elementwise operation with a result of this shape; scalars stay."""
    shape = physical(shape)
    if jnp.ndim(x) == 0 or x.shape == shape:
        return x
    return jax.lax.broadcast_in_dim(x, shape, range(len(shape) - x.ndim, len(shape)))


def _whole(x: Any, shape: Sequence[int]) -> Array:
    """With the leading axes of size 1 that physical shapes leave away."""
    missing = len(shape) - x.ndim
    return jax.lax.broadcast_in_dim(x, (1,) * missing + x.shape, range(missing, len(shape))) if missing else x


def _stripped(x: Array, shape: Sequence[int]) -> Array:
    """Without them, for a result of this shape."""
    return _squeezed(x, range(x.ndim - len(physical(shape))))


def _squeezed(x: Array, axes: Sequence[int]) -> Array:
    # As a sum, which Triton does in place; to reshape it may move the array through shared memory.
    axes = tuple(axes)
    if not axes:
        return x
    return (
        x.reshape([size for axis, size in enumerate(x.shape) if axis not in axes]) if x.dtype == bool else x.sum(axes)
    )


def _broadcast(x: Any, shape: Sequence[int], out: Sequence[int], dimensions: Sequence[int]) -> Array:
    target, left_away = physical(out), len(out) - len(physical(out))
    if jnp.ndim(x) == 0:
        return jnp.broadcast_to(jnp.asarray(x), target)
    kept = dimensions[len(shape) - x.ndim :]
    return jax.lax.broadcast_in_dim(x, target, [axis - left_away for axis in kept])


def _reshape(x: Any, shape: Sequence[int], out: Sequence[int]) -> Array:
    target = physical(out)
    if longer(shape) != longer(out):
        return x.reshape(target)
    x = _squeezed(x, [axis for axis, size in enumerate(jnp.shape(x)) if size == 1])
    return jax.lax.broadcast_in_dim(x, target, [axis for axis, size in enumerate(target) if size != 1])


def longer(shape: Sequence[int]) -> list[int]:
    """Without the axes of size 1."""
    return [size for size in shape if size != 1]


def _iota(out: Any, dimension: int) -> Array:
    shape = physical(out.shape)
    counted = dimension - (len(out.shape) - len(shape))
    if counted < 0:
        return jnp.zeros(shape, out.dtype)
    return jnp.minimum(jax.lax.broadcasted_iota(out.dtype, shape, counted), out.shape[dimension] - 1)


def _reduce(name: str, x: Array, shape: Sequence[int], axes: Sequence[int], out: Sequence[int]) -> Array:
    reduction, neutral = REDUCTIONS[name]
    left_away = len(shape) - x.ndim
    for axis in axes:
        x = _without_filling(x, shape, axis, neutral(x.dtype))
    axes = tuple(axis - left_away for axis in axes if axis >= left_away)
    return _stripped(reduction(x, axis=axes) if axes else x, out)


def _without_filling(x: Array, shape: Sequence[int], axis: int, value: Any) -> Array:
    """With `value` in what fills the axis up."""
    place = axis - (len(shape) - x.ndim)
    if place < 0 or x.shape[place] == shape[axis]:
        return x
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, place) < shape[axis], x, jnp.asarray(value, x.dtype))


def _product(x: Array, y: Array, x_shape: Sequence[int], y_shape: Sequence[int], out: Any, params: dict) -> Array:
    (x_sums, y_sums), (x_batch, y_batch) = params["dimension_numbers"]
    x = _all_without_filling(x, x_shape, x_sums)
    y = _all_without_filling(y, y_shape, y_sums)
    if _is_of_matrices(x, y, x_sums, x_batch):
        if x.dtype != y.dtype:
            x, y = (z.astype(min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)) for z in (x, y))
        wanted = {"precision": params["precision"], "preferred_element_type": jnp.float32}
        found = jax.lax.dot_general(x, y, params["dimension_numbers"], **wanted)
        return _stripped(found.astype(out.dtype), out.shape)
    # Axes of the products of single numbers: batch, those of x alone, those of y alone, those that are summed.
    x_own = [axis for axis in range(x.ndim) if axis not in (*x_sums, *x_batch)]
    y_own = [axis for axis in range(y.ndim) if axis not in (*y_sums, *y_batch)]
    rank = len(x_batch) + len(x_own) + len(y_own) + len(x_sums)
    x = _at(x, (*x_batch, *x_own, *x_sums), range(len(x_batch) + len(x_own)), rank, len(x_sums), out.dtype)
    own = range(len(y_batch) + len(x_own), rank - len(y_sums))
    y = _at(y, (*y_batch, *y_own, *y_sums), (*range(len(y_batch)), *own), rank, len(y_sums), out.dtype)
    found = x * y
    return _stripped(found.sum(tuple(range(rank - len(x_sums), rank))) if x_sums else found, out.shape)


def _all_without_filling(x: Array, shape: Sequence[int], axes: Sequence[int]) -> Array:
    for axis in axes:
        x = _without_filling(x, shape, axis, 0)
    return x


def _is_of_matrices(x: Array, y: Array, sums: Sequence[int], batch: Sequence[int]) -> bool:
    both = x.ndim == y.ndim == 2 and len(sums) == 1 and not batch
    return both and min(*x.shape, *y.shape) >= _SMALLEST_PRODUCT


def _at(x: Array, order: Sequence[int], first: Sequence[int], rank: int, summed: int, dtype: Any) -> Array:
    """The axes of x in this order, at the places `first` and, those that are summed, at the end of `rank` axes."""
    x = x.astype(dtype)
    x = x if list(order) == sorted(order) else x.transpose(order)
    places = (*first, *range(rank - summed, rank))
    shape = [1] * rank
    for place, size in zip(places, x.shape, strict=True):
        shape[place] = size
    return jax.lax.broadcast_in_dim(x, shape, places)


def _extreme(dtype: Any, end: str) -> Any:
    if jnp.issubdtype(dtype, jnp.floating):
        return -math.inf if end == "min" else math.inf
    return getattr(jnp.iinfo(dtype), end)
