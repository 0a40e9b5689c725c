"""Modules called as whole programs: called as they stand, each of their operations is compiled by itself."""

import functools

import flax.linen as nn
import jax


def apply(module: nn.Module, variables, *args, **options):
    """`module.apply(variables, *args, **options)` in one compiled program."""
    arrays, rest = _divided(options)
    return _program(module, "apply", rest)(variables, *args, **arrays)


def init(module: nn.Module, *args, **options):
    """`module.init(jax.random.key(0), *args, **options)` in one compiled program, without the boxes of its arrays."""
    arrays, rest = _divided(options)
    return nn.unbox(_program(module, "init", rest)(jax.random.key(0), *args, **arrays))


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
