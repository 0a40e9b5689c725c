"""A mechanism's kernel: what its module computes between the projections to heads and the projection back.

The module itself runs; its projections are replaced, so that no mechanism needs a second text. Parameters of the
projections are left out, those of the kernel (a score's network, spans, a convolution) are differentiated with the
heads.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn.attention import Attention, cost
from jattn.attention.projections import FromHeads, ToHeads
from jattn.errors import UserError
from jattn.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel and its operands.

    call: operands -> (B, H, T, E).
    operands: heads by the name of their projection, the kernel's parameters, and x where values are read from it.
    flops: of one forward pass by formula: the module's without its projections.
    """

    call: Callable[[PyTree], Array]
    operands: dict[str, Any]
    flops: int


def kernel(module: Attention, x: Array, key: Array) -> Kernel:
    """The kernel of a module for inputs like x (B, T, C), its heads drawn at random.

    Raises:
      UserError: the module is made of several mechanisms, and has no kernel of its own.
    """
    seen = _Projections()
    jax.eval_shape(lambda: seen.initialized(module, x))
    if seen.merges != 1:
        raise UserError(f"{type(module).__name__} is made of several mechanisms and has no kernel of its own")
    params = nn.unbox(jax.jit(module.init)(key, x)["params"])
    heads = {
        name: jax.random.normal(jax.random.fold_in(key, i), shape.shape, x.dtype)
        for i, (name, shape) in enumerate(seen.heads.items())
    }
    operands: dict[str, Any] = {
        "heads": heads,
        "params": {name: value for name, value in params.items() if name not in seen.names},
    }
    if "value" not in heads:
        operands["x"] = x

    def call(operands: dict[str, Any]) -> Array:
        replaced = _Replaced(operands["heads"])
        with nn.intercept_methods(replaced.intercept):
            module.apply({"params": operands["params"]}, operands.get("x", x))
        return replaced.out

    flops = module.cost(x.shape[1], width=x.shape[2], batch=x.shape[0]).flops - seen.flops
    return Kernel(call, operands, flops)


class _Projections:
    """What one abstract pass shows of a module's projections."""

    def __init__(self):
        self.heads: dict[str, jax.ShapeDtypeStruct] = {}
        self.names: set[str] = set()
        self.merges = 0
        self.flops = 0

    def initialized(self, module: Attention, x: Array) -> PyTree:
        with nn.intercept_methods(self._intercept):
            return module.init(jax.random.key(0), x)

    def _intercept(self, call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        result = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and isinstance(module, ToHeads | FromHeads):
            self.names.add(module.name)
            if isinstance(module, ToHeads):
                self.heads[module.name] = jax.ShapeDtypeStruct(result.shape, result.dtype)
                tokens, inputs = math.prod(args[0].shape[:-1]), args[0].shape[-1]
                outputs = module.num_heads * module.head_dim
            else:
                self.merges += 1
                tokens, outputs = math.prod(result.shape[:-1]), result.shape[-1]
                inputs = args[0].shape[1] * args[0].shape[3]
            self.flops += cost.projection(tokens, inputs, outputs, use_bias=module.use_bias, dtype_bytes=4).flops
        return result


class _Replaced:
    """Gives heads in place of projections to them, and keeps what the projection back is called with."""

    def __init__(self, heads: dict[str, Array]):
        self._heads = heads
        self.out: Array | None = None

    def intercept(self, call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, ToHeads):
            return self._heads[module.name]
        if isinstance(module, FromHeads):
            (self.out,) = args
            return jnp.zeros((args[0].shape[0], args[0].shape[2], module.width), args[0].dtype)
        return call(*args, **kwargs)
