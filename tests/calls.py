"""Modules called as whole programs: called as they stand, each of their operations is compiled by itself.

Arrays that are returned are NumPy's: what a test does with them compiles nothing.
"""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np


def apply(module: nn.Module, variables, *args, **options):
    """`module.apply(variables, *args, **options)` in one compiled program."""
    arrays, rest = _divided(options)
    return _of_numpy(_program(module, "apply", rest)(variables, *args, **arrays))


def init(module: nn.Module, *args, **options):
    """`module.init(jax.random.key(0), *args, **options)` in one compiled program, without the boxes of its arrays."""
    arrays, rest = _divided(options)
    return _of_numpy(nn.unbox(_program(module, "init", rest)(jax.random.key(0), *args, **arrays)))


def shapes(module: nn.Module, *args, **options):
    """Shapes of what `init` makes: a module and shapes of arguments are traced once."""
    arrays, rest = _divided(options)
    return nn.unbox(_program(module, "init", rest).eval_shape(jax.random.key(0), *args, **arrays))


def random_variables(module: nn.Module, x, context=None, *, spread=0.3, seed=0):
    """Variables of the shapes that `init` would make, all of them random: normal, of this standard deviation."""
    rng = np.random.default_rng(seed)
    made = shapes(module, x) if context is None else shapes(module, x, context=context)
    # Rounded by NumPy, and put on the device: to round it or to make an array of it, JAX compiles a program a shape.
    drawn = jax.tree.map(lambda leaf: (spread * rng.standard_normal(leaf.shape)).astype(leaf.dtype), made)
    return jax.device_put(drawn)


def empty_cache(module: nn.Module, x):
    """The cache that `init` makes for an input of this length: zeros."""
    made = shapes(module.clone(decode=True), x)["cache"]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), made)


def lowered(module: nn.Module, queries: int, keys: int, width: int):
    """The call of two examples of so many tokens, with a context where the keys are not as many; and the shapes of the
    variables."""
    x, context = (jax.ShapeDtypeStruct((2, n, width), jnp.float32) for n in (queries, keys))
    context = None if queries == keys else context
    variables = shapes(module, x, context=context)
    call = jax.jit(lambda variables, x, context: module.apply(variables, x, context=context))
    return call.lower(variables, x, context), variables


def largest_array(function, *args) -> int:
    """The most elements that any value has inside a program, loops and calls included."""

    def largest(jaxpr):
        sizes = (variable.aval.size for equation in jaxpr.eqns for variable in equation.outvars)
        inner = (largest(part) for equation in jaxpr.eqns for part in jax.extend.core.jaxprs_in_params(equation.params))
        return max(itertools.chain(sizes, inner), default=0)

    return largest(jax.make_jaxpr(function)(*args).jaxpr)


def _of_numpy(tree):
    """The arrays of a tree, but for those in dataclasses: their types are checked."""
    return jax.tree.map(
        lambda leaf: leaf if dataclasses.is_dataclass(leaf) else np.asarray(leaf),
        tree,
        is_leaf=dataclasses.is_dataclass,
    )


def _divided(options):
    """Options that are arrays or hold them, and the others as a sorted tuple."""
    arrays = {name: value for name, value in options.items() if any(map(_is_array, jax.tree.leaves(value)))}
    rest = {name: _hashable(value) for name, value in options.items() if name not in arrays}
    return arrays, tuple(sorted(rest.items()))


def _is_array(leaf):
    return hasattr(leaf, "dtype")


def _hashable(value):
    return tuple(value) if isinstance(value, list) else value


@functools.cache
def _program(module, function, rest):
    return jax.jit(functools.partial(getattr(module, function), **dict(rest)))
