"""How a small change of what enters a model grows from layer to layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jattn.models.block import Block
from jattn.models.transformer import Transformer
from jattn.types import Array, Bool, Float, PyTree

SMALL = 1e-3
"""Length of the change, as a part of what it is added to: small, yet far above float32's last digits."""


def states(
    model: Transformer,
    params: PyTree,
    inputs: Any,
    kick: Float[Array, "B T C"] | None = None,
    real: Bool[Array, "B T"] | None = None,
) -> list[Float[Array, "B T C"]]:
    """What enters the first block, and what leaves each, in evaluation.

    Args:
      model: any of ours.
      params: of it.
      inputs: as it takes them.
      kick: a direction; each example is changed by `SMALL` of its own length along it. None = nothing is changed.
      real: tokens that are no padding; only they are changed, by a part of their own length. None = all.
    """
    found: list[Array] = []

    def seen(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if not isinstance(context.module, Block) or context.method_name != "__call__":
            return call(*args, **kwargs)
        x, *rest = args
        if not found:
            if kick is not None:
                changed = jnp.ones(x.shape[:2], bool) if real is None else real
                along = jnp.where(changed[..., None], kick, 0.0)
                size, length = (
                    jnp.linalg.norm(jnp.where(changed[..., None], y, 0.0).reshape(len(y), -1), axis=-1)
                    for y in (x, along)
                )
                x = x + along * (SMALL * size / jnp.maximum(length, jnp.finfo(length.dtype).tiny))[:, None, None]
            found.append(x)
        out = call(x, *rest, **kwargs)
        found.append(out)
        return out

    with nn.intercept_methods(seen):
        # Recomputation would keep what is seen within itself.
        model.clone(remat="none").apply({"params": params}, inputs, deterministic=True)
    return found


def with_and_without(
    model: Transformer, params: PyTree, inputs: Any, real: Bool[np.ndarray, "B T"], seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The states of both, real tokens changed in a random direction, the same at every call of this seed."""
    shape = jax.eval_shape(lambda params, x: states(model, params, x), params, inputs)[0].shape
    kick = jax.random.normal(jax.random.key(seed), shape)
    run = jax.jit(lambda params, x, *change: (states(model, params, x), states(model, params, x, *change)))
    return jax.device_get(run(params, inputs, kick, real))
