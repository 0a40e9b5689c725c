"""What a training step reads and writes: arrays only."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jattn.types import PyTree


class TrainState(flax.struct.PyTreeNode):
    """The state after `step` steps; with the config and the data it decides everything that follows.

    Fields are not annotated with shapes: the same class holds arrays, their shapes, and their shardings.

    Attributes:
      step: int32 scalar, steps taken, those that a non-finite gradient voided included. It numbers the batch
        and seeds the step's randomness.
      params: the model's `params` collection.
      opt_state: state of the optax chain; its counters count the updates applied.
      ema: exponential moving average of `params`, or None.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any

    @classmethod
    def create(cls, params: PyTree, tx: optax.GradientTransformationExtraArgs, with_ema: bool) -> "TrainState":
        """The state before the first step. The average starts at the parameters themselves."""
        ema = jax.tree.map(jnp.copy, params) if with_ema else None
        return cls(step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params), ema=ema)
