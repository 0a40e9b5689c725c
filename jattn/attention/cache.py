"""The decode cache: what earlier calls computed of each token, kept in flax's manner.

Collection "cache" of a module holds `cached_<name>` (B, K, S, ...) for every array that is remembered, and
`cache_index`, the number of tokens seen. `init` on an input of the full length S sizes it and leaves it empty; every
later call brings one new token or several. Where only so many tokens back matter, the cache has no more slots than
that, and later tokens push earlier ones out: a token costs the same however many there have been.

Elsewhere, a call past S cannot be refused, since the index is traced. Where flax's attention then overwrites the last
slot and goes on with wrong numbers, outputs here become NaN from that call on (`attention.base` sees to it).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn.errors import UserError
from jattn.types import Array, Bool, Int


def position(module: nn.Module) -> Int[Array, ""] | int:
    """The position of this call's first token: what the cache has seen, 0 without one."""
    return module.get_variable("cache", "cache_index", 0)


def remember(
    module: nn.Module, tokens: dict[str, Array], reach: int | None = None
) -> tuple[dict[str, Array], Bool[Array, ""] | bool, Int[Array, ""] | int]:
    """Adds this call's tokens to the module's cache.

    Args:
      module: the bound module that owns the cache; call this inside its compact method.
      tokens: arrays (B, K, T, ...) by name, such as keys and values; axes differ but for B and T.
      reach: how many tokens back a later one can look; None = any number. A cache made for more than that has so many
        slots, forgets what is out of reach, and never ends.

    Returns:
      the arrays with all S slots (zeros where no token has been yet), or with those within reach and then this call's
      own; whether the tokens found room; and where in the arrays this call's tokens begin. When the module is being
      initialised, `tokens` as they are, True, and 0.

    Raises:
      UserError: there is no cache, or the call's arrays do not fit into it.
    """
    ready = module.has_variable("cache", "cache_index")
    if not ready and not module.is_initializing():
        raise UserError("decode=True needs a cache: pass the collection 'cache' that init on a full-length input made")

    def empty(new: Array) -> Array:
        slots = new.shape[2] if reach is None else min(new.shape[2], reach)
        return jnp.zeros((*new.shape[:2], slots, *new.shape[3:]), new.dtype)

    cached = {name: module.variable("cache", f"cached_{name}", empty, new) for name, new in tokens.items()}
    index = module.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
    if not ready:
        return tokens, True, 0
    first = index.value
    index.value = first + next(iter(tokens.values())).shape[2]
    forgets = {variable.value.shape[2] for variable in cached.values()} == {reach}
    found = {}
    for name, new in tokens.items():
        slots, shape = cached[name].value.shape, new.shape
        if (slots[:2], slots[3:]) != (shape[:2], shape[3:]) or (shape[2] > slots[2] and not forgets):
            raise UserError(
                f"{name} of shape {shape} does not fit into the cache of shape {slots} (batch, heads, tokens, ...): "
                "initialise the cache with an input of this batch and of the longest length"
            )
        new = new.astype(cached[name].value.dtype)
        if forgets:
            found[name] = jnp.concatenate([cached[name].value, new], axis=2)
            cached[name].value = found[name][:, :, shape[2] :]
        else:
            found[name] = jax.lax.dynamic_update_slice_in_dim(cached[name].value, new, first, axis=2)
            cached[name].value = found[name]
    return (found, True, reach) if forgets else (found, index.value <= slots[2], first)


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
