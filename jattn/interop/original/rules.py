"""What is known of one class of a released code: our module for its settings, and where its parameters go.

Names of parameters are those of the released `state_dict`. A torch Linear has weight (out, in) and computes
x W^T + b; a Conv1d has weight (out, in / groups, k).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jattn.types import Array, Float

Settings = Mapping[str, Any]
"""Arguments of the released class, as recorded, and `cls`, its name; `source`, its file, where several have the class.
"""

Params = Mapping[str, Array]
"""Arrays under their released names."""

Inputs = Mapping[str, Array]
"""Arguments of the call: x, mask, ..."""


def call_with_x(module: nn.Module, variables: Any, inputs: Inputs) -> Array:
    """The call of a module that takes tokens and nothing else."""
    return module.apply(variables, inputs["x"])


def as_given(settings: Settings, params: Params) -> Settings:
    """Settings that are complete."""
    return settings


@dataclasses.dataclass(frozen=True)
class Original:
    """A class of a released code.

    module: our unbound module, with `as_published=True`, that computes what the class computes under these settings.
    params: its parameters made of the released ones. It only moves numbers (transposes, splits, concatenates), so
      that its transpose is its inverse, and gradients with respect to released parameters are had by differentiating
      through it.
    call: the output of the released class for these inputs, computed by our module with these variables.
    completed: the settings that `module` needs, of those recorded and of the released parameters.
    """

    module: Callable[[Settings], nn.Module]
    params: Callable[[Settings, Params], dict[str, Any]]
    call: Callable[[nn.Module, Any, Inputs], Array] = call_with_x
    completed: Callable[[Settings, Params], Settings] = as_given


def linear(params: Params, name: str) -> dict[str, Array]:
    """`nn.Dense`'s parameters: kernel (in, out), and bias (out) where the released layer has one."""
    return {"kernel": params[f"{name}.weight"].T} | _bias(params, name, lambda bias: bias)


def to_heads(params: Params, name: str, heads: int) -> dict[str, Array]:
    """`ToHeads`' parameters of a Linear whose output features are ordered (head, feature)."""
    kernel = params[f"{name}.weight"].T
    return {"kernel": kernel.reshape(kernel.shape[0], heads, -1)} | _bias(
        params, name, lambda bias: bias.reshape(heads, -1)
    )


def from_heads(params: Params, name: str, heads: int) -> dict[str, Array]:
    """`FromHeads`' parameters of a Linear whose input features are ordered (head, feature)."""
    kernel = params[f"{name}.weight"].T
    return {"kernel": kernel.reshape(heads, -1, kernel.shape[1])} | _bias(params, name, lambda bias: bias)


def layer_norm(params: Params, name: str) -> dict[str, Array]:
    """`nn.LayerNorm`'s parameters."""
    return {"scale": params[f"{name}.weight"], "bias": params[f"{name}.bias"]}


def split_linear(params: Params, name: str, parts: int) -> list[dict[str, Array]]:
    """The parts of a Linear whose output features are ordered (part, feature), as `.weight` and `.bias` each."""
    weights = jnp.split(params[f"{name}.weight"], parts)
    biases = jnp.split(params[f"{name}.bias"], parts) if f"{name}.bias" in params else None
    return [
        {".weight": weight} if biases is None else {".weight": weight, ".bias": biases[i]}
        for i, weight in enumerate(weights)
    ]


def under(params: Params, prefix: str) -> dict[str, Array]:
    """The parameters whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _bias(params: Params, name: str, move: Callable[[Array], Float[Array, "..."]]) -> dict[str, Array]:
    return {"bias": move(params[f"{name}.bias"])} if f"{name}.bias" in params else {}
