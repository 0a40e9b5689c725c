"""Which traced functions can be evaluated on axes of powers of two, and what that takes.

See `jattn.core.powers_of_two`, which does it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jattn.core.powers_of_two import CALLS, ELEMENTWISE, REDUCTIONS, called, filled, longer, physical

LARGEST = 256
"""The longest axis besides those of tokens that is filled up."""

_STRUCTURE = frozenset(["broadcast_in_dim", "dot_general", "iota", "reshape", "squeeze", "transpose"])
_CONSTANT = "score, bias or mask holds an array that is not a parameter of it"


def objection(traced: ClosedJaxpr) -> str | None:
    """Why a function cannot be evaluated so, or None."""
    if any(jnp.ndim(const) for const in traced.consts):
        return _CONSTANT
    rows = {traced.jaxpr.invars[position] for position in looked_up(traced)}
    for variable in traced.jaxpr.invars:
        too_long = max(variable.aval.shape, default=0) > LARGEST
        if too_long and variable not in rows:
            return (
                f"it takes up to {LARGEST} features of a token or parameters in a row, not {max(variable.aval.shape)}"
            )
    return _objection(traced.jaxpr, rows)


def _objection(jaxpr: Any, rows: set) -> str | None:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in CALLS:
            callee, consts = called(equation)
            if any(jnp.ndim(const) for const in consts):
                return _CONSTANT
            pairs = zip(callee.invars, equation.invars, strict=True)
            reason = _objection(callee, {inner for inner, outer in pairs if _among(outer, rows)})
            if reason:
                return reason
            continue
        if name == "gather" and _among(equation.invars[0], rows):
            continue
        known = name in ELEMENTWISE or name in REDUCTIONS or name in _STRUCTURE
        if not known:
            return f"score, bias or mask uses {name}, which its kernels have not"
        if any(var.aval.dtype in (np.dtype("float64"), np.dtype("complex64")) for var in equation.outvars):
            return "score, bias or mask computes in float64 or in complex numbers"
        if name == "reshape":
            shapes = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            exact = all(size == filled(size) for shape in shapes for size in shape)
            if longer(shapes[0]) != longer(shapes[1]) and not exact:
                return f"score, bias or mask reshapes {shapes[0]} to {shapes[1]}"
    return None


def _among(atom: Any, variables: set) -> bool:
    return not isinstance(atom, Literal) and atom in variables


def looked_up(traced: ClosedJaxpr) -> frozenset[int]:
    """Which arguments the function only looks columns up in, by position."""
    return frozenset(
        position for position, uses in enumerate(_uses(traced.jaxpr, traced.jaxpr.invars)) if uses == {"gather"}
    )


def _uses(jaxpr: Any, variables: Sequence) -> list[set[str]]:
    uses = {variable: set() for variable in variables}
    for equation in jaxpr.eqns:
        inner = [None] * len(equation.invars)
        if equation.primitive.name in CALLS:
            callee, _ = called(equation)
            inner = _uses(callee, callee.invars)
        for place, atom in enumerate(equation.invars):
            if not isinstance(atom, Literal) and atom in uses:
                name = equation.primitive.name
                name = name if name != "gather" or _is_lookup(equation, place) else "other gather"
                uses[atom] |= {name} if inner[place] is None else inner[place]
    for atom in jaxpr.outvars:
        if not isinstance(atom, Literal) and atom in uses:
            uses[atom].add("result")
    return [uses[variable] for variable in variables]


def _is_lookup(equation: Any, place: int = 0) -> bool:
    """Whether a gather is `jnp.take(x, index, axis=1, mode="clip")`."""
    numbers, operand = equation.params["dimension_numbers"], equation.invars[0].aval
    return (
        place == 0
        and operand.ndim == 2
        and numbers.offset_dims == (0,)
        and numbers.collapsed_slice_dims == numbers.start_index_map == (1,)
        and equation.params["slice_sizes"] == (operand.shape[0], 1)
        and equation.params["mode"] == jax.lax.GatherScatterMode.CLIP
    )


def crowding(traced: ClosedJaxpr, tile: int) -> int:
    """How many times as large as a tile of so many pairs the largest array is that the function makes."""
    return max([1, *(math.prod(physical(shape)) // tile for shape in _made(traced.jaxpr))])


def _made(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in CALLS:
            yield from _made(called(equation)[0])
        yield from (var.aval.shape for var in equation.outvars if len(var.aval.shape) > 2)
