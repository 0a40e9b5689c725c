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
    mesh = jax.sharding.get_abstract_mesh()
    usable = {
        name: size
        for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if kind == AxisType.Auto and size > 1
    }
    batch = DATA_AXIS if request.batch % usable.get(DATA_AXIS, request.batch + 1) == 0 else None
    heads = MODEL_AXIS if request.key_heads % usable.get(MODEL_AXIS, request.key_heads + 1) == 0 else None
    if batch is None and heads is None:
        return function

    def tokens(leaf: Array) -> PartitionSpec:
        return PartitionSpec(batch if leaf.shape[0] > 1 else None, heads if leaf.shape[1] > 1 else None)

    def parameter(leaf: Array) -> PartitionSpec:
        return PartitionSpec(heads if leaf.shape[0] > 1 else None)

    def whole(leaf: Array) -> PartitionSpec:
        return PartitionSpec()

    kinds = (tokens, tokens, tokens, parameter, parameter, parameter, whole, whole)

    def shards(*arguments: PyTree) -> PyTree:
        specs = (
            *(jax.tree.map(kind, argument) for kind, argument in zip(kinds, arguments, strict=False)),
            PartitionSpec(batch),
            PartitionSpec(heads),
        )
        names = {name for name in (batch, heads) if name}
        # Without vma checks: the backward pass is written by hand, and replicated inputs are summed at the border.
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=specs,
            out_specs=PartitionSpec(batch, heads),
            axis_names=names,
            check_vma=False,
        )(*arguments)

    return shards
