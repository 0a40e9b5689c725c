"""Weights of the five released codes: to jattn's modules and back.

    module, variables = load("kvt_attention", {"cls": "MultiHeadKvtAttention", "dim": 24, ...}, state_dict)

`ORIGINALS` lists what is known: the name a recorded case gives the mechanism, and below it the released class.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn.errors import UserError, unknown
from jattn.interop.original import (
    adaptive_span,
    branching,
    conv1d,
    convnn,
    kvt,
    local,
    natural,
    neighborhood,
    neural,
    reduced,
    softmax,
    sparse,
    vit,
)
from jattn.interop.original.rules import Original, Settings
from jattn.types import Array

__all__ = ["ORIGINALS", "dump", "load", "original"]

FAMILIES = (
    branching.ORIGINALS,
    conv1d.ORIGINALS,
    convnn.ORIGINALS,
    kvt.ORIGINALS,
    local.ORIGINALS,
    adaptive_span.ORIGINALS,
    natural.ORIGINALS,
    neighborhood.ORIGINALS,
    neural.ORIGINALS,
    reduced.ORIGINALS,
    softmax.ORIGINALS,
    sparse.ORIGINALS,
    vit.ORIGINALS,
)

ORIGINALS: dict[str, dict[str, Original]] = {name: classes for family in FAMILIES for name, classes in family.items()}


def load(mechanism: str, settings: Settings, params: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The module that computes what a released class computes, and its variables.

    Args:
      mechanism: a key of `ORIGINALS`.
      settings: arguments of the released class, and `cls`, its name.
      params: its parameters, arrays of NumPy or JAX, under the names of its state_dict.

    Raises:
      UserError: the mechanism, the class or a setting is not known, or a parameter is missing.
    """
    known = original(mechanism, settings)
    try:
        arrays = jax.tree.map(jnp.asarray, dict(params))
        module = known.module(known.completed(settings, arrays))
        # In one program: outside of it, each move of each shape would be one.
        return module, {"params": jax.jit(functools.partial(known.params, settings))(arrays)}
    except KeyError as error:
        raise UserError(
            f"{settings['cls']} needs {error.args[0]!r}, which neither settings nor parameters have"
        ) from None


def dump(
    mechanism: str, settings: Settings, variables: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Array]:
    """The released parameters that `load` makes these variables of.

    Args:
      mechanism, settings: as for `load`.
      variables: of the module, `{"params": ...}`.
      shapes: of the released parameters by name, as its state_dict has them. Those that our module has no use for
        come back as zeros.

    Raises:
      UserError: the mechanism or the class is not known, or shapes and variables do not belong together.
    """
    known = original(mechanism, settings)
    released = {name: jax.ShapeDtypeStruct(tuple(shape), jnp.float32) for name, shape in shapes.items()}
    # Rules only move numbers: each of ours is one of theirs, so the transpose of the map is its inverse.
    back = jax.linear_transpose(lambda params: known.params(settings, params), released)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), nn.unbox(dict(variables["params"])))
    try:
        return jax.jit(back)(params)[0]
    except (TypeError, ValueError) as error:
        raise UserError(f"these variables are not those of {settings['cls']} with such parameters: {error}") from None


def original(mechanism: str, settings: Settings) -> Original:
    """What is known of a released class.

    Raises:
      UserError: it is not known.
    """
    if mechanism not in ORIGINALS:
        raise unknown("mechanism of a released code", mechanism, ORIGINALS)
    if settings.get("cls") not in ORIGINALS[mechanism]:
        raise unknown(f"class of {mechanism}", settings.get("cls"), ORIGINALS[mechanism])
    return ORIGINALS[mechanism][settings["cls"]]
