"""Makes the compiler keep an array that several operations read, instead of computing it again in each of them.

XLA fuses a chain of cheap operations into every reader of its end. In a deep model such chains have no end: the
gradient of a block's input is a sum over all later blocks, and XLA for CPUs evaluates it from its summands in each of
the operations that read it, in time quadratic in depth.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jattn.types import Array, Float


def stored(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x bit for bit, computed once and kept; so are its tangents and cotangents."""
    return _stored.bind(x)


def _divided_by_one(x: Array) -> Array:
    """x / 1, where XLA does not see that it is 1.

    Its compiler for CPUs removes optimization barriers before it fuses, but it does not repeat a division.
    """
    one = jnp.ones((), x.dtype)
    return x / jax.lax.clamp(one, x, one)


_stored = Primitive("stored")
_stored.def_abstract_eval(lambda x: x)
_stored.def_impl(lambda x: x)  # an operation on its own is computed once
ad.primitive_jvps[_stored] = lambda primals, tangents: (stored(primals[0]), stored(tangents[0]))
ad.primitive_transposes[_stored] = lambda cotangent, x: (stored(cotangent),)
batching.primitive_batchers[_stored] = lambda args, dims: (stored(args[0]), dims[0])
mlir.register_lowering(_stored, mlir.lower_fun(jax.lax.optimization_barrier, multiple_results=False))
mlir.register_lowering(_stored, mlir.lower_fun(_divided_by_one, multiple_results=False), platform="cpu")
