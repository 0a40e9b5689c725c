"""The decode cache: what earlier calls computed of each token, kept in flax's manner.

Collection "cache" of a module holds `cached_<name>` (B, K, S, ...) for every array that is remembered, and
`cache_index`, the number of tokens seen. `init` on an input of the full length S sizes it and leaves it empty; every
later call brings one new token or several.

A call past S cannot be refused, since the index is traced. Where flax's attention then overwrites the last slot and
goes on with wrong numbers, outputs here become NaN from that call on (`attention.base` sees to it).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn.errors import UserError
from jattn.types import Array, Bool, Int


def position(module: nn.Module) -> Int[Array, ""] | int:
    """The position of this call's first token: what the cache has seen, 0 without one."""
    return module.get_variable("cache", "cache_index", 0)


def remember(module: nn.Module, tokens: dict[str, Array]) -> tuple[dict[str, Array], Bool[Array, ""] | bool]:
    """Adds this call's tokens to the module's cache.

    Args:
      module: the bound module that owns the cache; call this inside its compact method.
      tokens: arrays (B, K, T, ...) by name, such as keys and values; axes differ but for B and T.

    Returns:
      the arrays with all S slots (zeros where no token has been yet), and whether the tokens found room. When the
      module is being initialised, `tokens` as they are, and True.

    Raises:
      UserError: there is no cache, or the call's arrays do not fit into it.
    """
    ready = module.has_variable("cache", "cache_index")
    if not ready and not module.is_initializing():
        raise UserError("decode=True needs a cache: pass the collection 'cache' that init on a full-length input made")
    cached = {
        name: module.variable("cache", f"cached_{name}", jnp.zeros, new.shape, new.dtype)
        for name, new in tokens.items()
    }
    index = module.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
    if not ready:
        return tokens, True
    for name, new in tokens.items():
        slots, shape = cached[name].value.shape, new.shape
        if (slots[:2], slots[3:]) != (shape[:2], shape[3:]) or shape[2] > slots[2]:
            raise UserError(
                f"{name} of shape {shape} does not fit into the cache of shape {slots} (batch, heads, tokens, ...): "
                "initialise the cache with an input of this batch and of the longest length"
            )
        cached[name].value = jax.lax.dynamic_update_slice_in_dim(
            cached[name].value, new.astype(cached[name].value.dtype), index.value, axis=2
        )
    index.value = index.value + shape[2]
    return {name: variable.value for name, variable in cached.items()}, index.value <= slots[2]


def remember_derived(module: nn.Module, name: str, new: Array, first: Int[Array, ""] | int) -> Array:
    """Adds an array (B, K, T, ...) that could be made of this call's tokens only after `remember`.

    first: `position(module)` from before `remember`. Returns the array with all slots; `new` at `init`.
    """
    ready = module.has_variable("cache", f"cached_{name}")
    cached = module.variable("cache", f"cached_{name}", jnp.zeros, new.shape, new.dtype)
    if not ready:
        return new
    cached.value = jax.lax.dynamic_update_slice_in_dim(cached.value, new.astype(cached.value.dtype), first, axis=2)
    return cached.value
