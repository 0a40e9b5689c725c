"""How a small change of what enters a model grows from layer to layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jattn.models.block import Block
from jattn.models.transformer import Transformer
from jattn.types import Array, Float, PyTree

SMALL = 1e-3
"""Length of the change, as a part of what it is added to: small, yet far above float32's last digits."""


def states(
    model: Transformer, params: PyTree, inputs: Any, kick: Float[Array, "B T C"] | None = None
) -> list[Float[Array, "B T C"]]:
    """What enters the first block, and what leaves each, in evaluation.

    Args:
      model: any of ours.
      params: of it.
      inputs: as it takes them.
      kick: a direction; each example is changed by `SMALL` of its own length along it. None = nothing is changed.
    """
    found: list[Array] = []

    def seen(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if not isinstance(context.module, Block) or context.method_name != "__call__":
            return call(*args, **kwargs)
        x, *rest = args
        if not found:
            if kick is not None:
                scale = SMALL * jnp.linalg.norm(x.reshape(len(x), -1), axis=-1)
                length = jnp.linalg.norm(kick.reshape(len(x), -1), axis=-1)
                x = x + kick * (scale / length)[:, None, None]
            found.append(x)
        out = call(x, *rest, **kwargs)
        found.append(out)
        return out

    with nn.intercept_methods(seen):
        # Recomputation would keep what is seen within itself.
        model.clone(remat="none").apply({"params": params}, inputs, deterministic=True)
    return found


def with_and_without(
    model: Transformer, params: PyTree, inputs: Any, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The states of both, changed in a random direction, the same at every call of this seed."""
    shape = jax.eval_shape(lambda params, x: states(model, params, x), params, inputs)[0].shape
    kick = jax.random.normal(jax.random.key(seed), shape)
    run = jax.jit(lambda params, x, kick: (states(model, params, x), states(model, params, x, kick)))
    return jax.device_get(run(params, inputs, kick))
