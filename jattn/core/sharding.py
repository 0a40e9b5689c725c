"""Attention on several devices: batch and heads are independent, so each device computes its own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from jattn.core.call import Call, group
from jattn.core.choice import Request
from jattn.types import DATA_AXIS, MODEL_AXIS, Array, PyTree, Tokens


def of_pairs(
    function: Callable[[Call], PyTree], q: Tokens, k: Tokens, score: Any, bias: Any, mask: Any, offset: Any
) -> PyTree:
    """A function of the weights alone, for a call whose values have no features; results lead with B and H."""
    keys = jax.tree.leaves(k)
    batch = max(leaf.shape[0] for leaf in jax.tree.leaves((q, k)))
    no_values = jnp.zeros((batch, max(leaf.shape[1] for leaf in keys), keys[0].shape[2], 0))
    request = Request.of(q, k, no_values, score=score, bias=bias, mask=mask, offset=offset, dropout=None)
    arguments = q, k, no_values, score, bias, mask, jnp.asarray(offset, jnp.int32), None
    indices = jnp.arange(request.batch), jnp.arange(request.heads)
    return divided(lambda *grouped: function(group(*grouped)), request)(*arguments, *indices)


def divided(function: Callable, request: Request) -> Callable:
    """A function of `group`'s arguments under `shard_map` over batch and heads, where such a mesh is set."""
    kinds = ("tokens", "tokens", "tokens", "parameter", "parameter", "parameter", "whole", "whole", "batch", "heads")
    return over_mesh(function, kinds, request.batch, request.key_heads)


def over_mesh(function: Callable, kinds: tuple[str, ...], batch: int, heads: int) -> Callable:
    """A function under `shard_map` over the mesh's axes for batch and heads, where a mesh is set that divides them.

    kinds: of each argument's leaves: "tokens" lead with batch and heads (either may be 1), a "parameter" with heads
      or 1, "batch" and "heads" with these, and what is "whole" is not divided. Results lead with batch and heads.
    """
    mesh = jax.sharding.get_abstract_mesh()
    usable = {
        name: size
        for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if kind == AxisType.Auto and size > 1
    }
    over_batch = DATA_AXIS if batch % usable.get(DATA_AXIS, batch + 1) == 0 else None
    over_heads = MODEL_AXIS if heads % usable.get(MODEL_AXIS, heads + 1) == 0 else None
    if over_batch is None and over_heads is None:
        return function
    specs: dict[str, Callable[[Array], PartitionSpec]] = {
        "tokens": lambda leaf: PartitionSpec(
            over_batch if leaf.shape[0] > 1 else None, over_heads if leaf.shape[1] > 1 else None
        ),
        "parameter": lambda leaf: PartitionSpec(over_heads if leaf.shape[0] > 1 else None),
        "whole": lambda leaf: PartitionSpec(),
        "batch": lambda leaf: PartitionSpec(over_batch),
        "heads": lambda leaf: PartitionSpec(over_heads),
    }

    def shards(*arguments: PyTree) -> PyTree:
        in_specs = tuple(jax.tree.map(specs[kind], argument) for kind, argument in zip(kinds, arguments, strict=True))
        # Without vma checks: the backward pass is written by hand, and replicated inputs are summed at the border.
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=in_specs,
            out_specs=PartitionSpec(over_batch, over_heads),
            axis_names={name for name in (over_batch, over_heads) if name},
            check_vma=False,
        )(*arguments)

    return shards
