"""A mechanism under test: its modules, inputs, parameters and compiled calls, shared by all properties."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.typing import ArrayLike

from jattn.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs: all different primes, so that a swapped axis cannot pass.

    head_dim: None lets the module choose, for mechanisms whose heads are slices of the width.
    """

    batch: int = 2
    heads: int = 3
    head_dim: int | None = 5
    tokens: int = 7
    context: int = 11
    width: int = 13
    outer: int = 17  # a second batch axis


class Case:
    """A mechanism under test.

    factory: makes an unbound module from the common fields, as keywords.
    causal: the field of this name in every module.
    lacks: features by name with the reason; None = what the module's class declares.
    """

    def __init__(
        self,
        factory: Callable[..., nn.Module],
        *,
        causal: bool,
        lacks: Mapping[str, str] | None = None,
        sizes: Sizes = Sizes(),
    ):
        self.factory, self.causal, self.sizes = factory, causal, sizes
        self.lacks = getattr(self.module(), "lacks", {}) if lacks is None else lacks
        # A hole among the first tokens of even examples, padding at the end of odd ones.
        hole = np.where(np.arange(sizes.batch) % 2, sizes.tokens - 1, 2)
        self.mask = np.arange(sizes.tokens)[None] != hole[:, None]

    def module(self, **fields: Any) -> nn.Module:
        """A new module with these fields."""
        common = {"num_heads": self.sizes.heads, "head_dim": self.sizes.head_dim, "causal": self.causal}
        return self.factory(**(common | fields))

    def tokens(self, *shape: int, seed: int = 0) -> Float[np.ndarray, "..."]:
        """Random tokens: (batch, tokens, width), or of another shape before the width."""
        shape = shape or (self.sizes.batch, self.sizes.tokens)
        values = np.random.default_rng(seed).standard_normal((*shape, self.sizes.width))
        return values.astype(np.float32)

    @functools.cached_property
    def initial(self) -> dict[str, Any]:
        """The shapes of what `init` gives."""
        return _init.eval_shape(self.module(), self.tokens())

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """What `init` gives, all parameters moved a little, so that none is zero or one by its initialiser."""
        variables = nn.unbox(_init(self.module(), self.tokens()))
        return {**variables, "params": jax.tree_util.tree_map_with_path(_moved, variables["params"])}

    @functools.cached_property
    def empty_cache(self) -> Any:
        """The decode cache that `init` makes for a full-length input."""
        return _empty_cache(self.module(decode=True), self.tokens())

    def evaluate(
        self, x: ArrayLike, mask: ArrayLike | None = None, context: ArrayLike | None = None, **fields: Any
    ) -> Array:
        """The compiled output of a module with these fields."""
        return _evaluate(self.module(**fields), self.variables, x, mask, context)

    def train(self, x: ArrayLike, key: Array, *, deterministic: bool = False, **fields: Any) -> Array:
        """The compiled output of a module with these fields that is given random numbers."""
        return _train(self.module(**fields), self.variables, x, key, deterministic)

    def differentiate(
        self, x: ArrayLike, mask: ArrayLike | None = None, *, cotangent: ArrayLike | None = None, **fields: Any
    ) -> tuple[Array, Any, Array]:
        """The output, and the gradients of <cotangent, output> with respect to parameters and x."""
        cotangent = self.tokens(seed=1) if cotangent is None else cotangent
        return _differentiate(self.module(**fields), self.variables, x, mask, cotangent)

    def gradient_of_x(
        self, x: ArrayLike, mask: ArrayLike | None = None, *, cotangent: ArrayLike | None = None
    ) -> Float[np.ndarray, "..."]:
        """What `differentiate` finds for x."""
        return np.asarray(self.differentiate(x, mask, cotangent=cotangent)[2])

    def step(
        self, cache: Any, x: ArrayLike, mask: ArrayLike | None, module: nn.Module | None = None
    ) -> tuple[Array, Any]:
        """The compiled output of decoding some more tokens, and the cache after them."""
        return _step(module or self.module(decode=True), {**self.variables, "cache": cache}, x, mask)

    def weights(self, x: ArrayLike, mask: ArrayLike | None = None, context: ArrayLike | None = None) -> Array:
        """The module's weights."""
        return _weights(self.module(), self.variables, x, mask, context)


# Modules are static arguments: what one property compiled serves the others.


@functools.partial(jax.jit, static_argnums=0)
def _init(module: nn.Module, x: ArrayLike) -> Any:
    return module.init(jax.random.key(0), x)


@functools.partial(jax.jit, static_argnums=0)
def _empty_cache(module: nn.Module, x: ArrayLike) -> Any:
    return module.init(jax.random.key(0), x)["cache"]


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(
    module: nn.Module, variables: Any, x: ArrayLike, mask: ArrayLike | None, context: ArrayLike | None
) -> Array:
    return module.apply(variables, x, mask, context=context)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _train(module: nn.Module, variables: Any, x: ArrayLike, key: Array, deterministic: bool) -> Array:
    rngs = {"dropout": key, "sampling": jax.random.fold_in(key, 1)}
    return module.apply(variables, x, deterministic=deterministic, rngs=rngs)


@functools.partial(jax.jit, static_argnums=0)
def _differentiate(
    module: nn.Module, variables: Any, x: ArrayLike, mask: ArrayLike | None, cotangent: ArrayLike
) -> tuple[Array, Any, Array]:
    def output(params: Any, x: ArrayLike) -> Array:
        return module.apply({**variables, "params": params}, x, mask)

    y, pull = jax.vjp(output, variables["params"], x)
    return y, *pull(cotangent.astype(y.dtype))


@functools.partial(jax.jit, static_argnums=0)
def _step(module: nn.Module, variables: Any, x: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Any]:
    y, updated = module.apply(variables, x, mask, mutable=["cache"])
    return y, updated["cache"]


@functools.partial(jax.jit, static_argnums=0)
def _weights(
    module: nn.Module, variables: Any, x: ArrayLike, mask: ArrayLike | None, context: ArrayLike | None
) -> Array:
    return module.apply(variables, x, mask, context=context, method="weights")


def _moved(path: Sequence[Any], leaf: Array) -> Array:
    seed = zlib.crc32(jax.tree_util.keystr(tuple(path)).encode())
    noise = 0.1 * np.random.default_rng(seed).standard_normal(leaf.shape)
    return jax.device_put(np.asarray(leaf) + noise.astype(leaf.dtype))
