"""Turns the two derivatives that fast paths lack into a sentence instead of an internal error.

Reverse mode of a `custom_vjp` is written by hand, and its loops have traced bounds: forward mode through it and
reverse mode through its backward pass do not exist. Reverse mode, and forward mode over reverse mode, do; of fused
kernels, reverse mode alone.
"""

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_WAY_OUT = 'attend(..., implementation="dense") differentiates in every mode'


def _raise_forward(*_, **__):
    raise TypeError(f"forward-mode differentiation (jvp) of attention by blocks does not exist: {_WAY_OUT}")


def _raise_second_reverse(*_, **__):
    raise TypeError(f"reverse-over-reverse differentiation of attention by blocks does not exist: {_WAY_OUT}")


def _linear_identity(name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.def_abstract_eval(lambda t: t)
    ad.primitive_jvps[primitive] = lambda primals, tangents: (primals[0], tangents[0])
    batching.primitive_batchers[primitive] = lambda args, dims: (primitive.bind(args[0]), dims[0])
    return primitive


# Evaluating it is an error, transposing it is not: what is left of it says that tangents were pushed forward.
_pulled_only = _linear_identity("attend_pulled_only")
_pulled_only.def_impl(_raise_forward)
mlir.register_lowering(_pulled_only, _raise_forward)
ad.primitive_transposes[_pulled_only] = lambda cotangent, t: (cotangent,)

# The other way round.
_pushed_only = _linear_identity("attend_pushed_only")
_pushed_only.def_impl(lambda t: t)
mlir.register_lowering(_pushed_only, lambda context, t: [t])
ad.primitive_transposes[_pushed_only] = _raise_second_reverse


@jax.custom_jvp
def reverse_mode_only(x: jax.Array) -> jax.Array:
    """Identity; forward mode through it raises."""
    return x


@reverse_mode_only.defjvp
def _(primals, tangents):
    return primals[0], _pulled_only.bind(tangents[0])


@jax.custom_jvp
def forward_mode_only(x: jax.Array) -> jax.Array:
    """Identity; reverse mode through it raises."""
    return x


@forward_mode_only.defjvp
def _(primals, tangents):
    return primals[0], _pushed_only.bind(tangents[0])


@jax.custom_jvp
def never_differentiated(x: jax.Array) -> jax.Array:
    """Identity; every derivative of it raises: for what enters kernels whose derivative is written by hand."""
    return x


@never_differentiated.defjvp
def _(primals, tangents):
    raise TypeError(
        "derivatives of the gradients of attention by fused kernels do not exist: attend(..., "
        f'implementation="blockwise") has forward over reverse mode, and {_WAY_OUT}'
    )
