"""What the models of other libraries share: what becomes of them here, and how a block of theirs is read."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn import models
from jattn.config import DataConfig, ModelConfig
from jattn.errors import UserError
from jattn.interop.original.rules import Params, from_heads, layer_norm, linear, split_linear, to_heads, under
from jattn.models.summary import abstract_inputs
from jattn.optim.parameters import path_name
from jattn.task import Task
from jattn.types import PyTree


@dataclass(frozen=True)
class Foreign:
    """A model of another library as one of ours.

    Attributes:
      title: what it is, for messages.
      model: its options.
      task: its sizes.
      data: data that it can be evaluated on and trained further with.
      params: its parameters under our names; without those that it does not have, such as a missing classifier.
      files: texts by name that its parameters mean nothing without: a tokenizer.
      notes: sentences for the user on what was assumed.
    """

    title: str
    model: ModelConfig
    task: Task
    data: DataConfig
    params: PyTree
    files: dict[str, str]
    notes: list[str]


@dataclass(frozen=True)
class Names:
    """Where the parts of a pre-norm block are, below its prefix."""

    prefix: str  # of block i, with {}
    qkv: str  # one linear map to queries, keys and values, in this order, heads one after the other
    out: str
    norms: tuple[str, str]  # before attention, before the mlp
    mlp: tuple[str, str]

    def tensors(self, depth: int) -> list[str]:
        """The names of all weights and biases of so many blocks."""
        parts = (self.qkv, self.out, *self.norms, *self.mlp)
        return [f"{self.prefix.format(i)}{part}.{kind}" for i in range(depth) for part in parts for kind in KINDS]

    def depth(self, tensors: Params) -> int:
        """Number of blocks."""
        depth = 0
        while any(name.startswith(self.prefix.format(depth)) for name in tensors):
            depth += 1
        return depth

    def blocks(self, tensors: Params, heads: int) -> dict[str, Any]:
        """Parameters of our blocks, made of weights (out, in)."""
        return {
            f"block_{i}": self._block(under(tensors, self.prefix.format(i)), heads) for i in range(self.depth(tensors))
        }

    def _block(self, layer: Params, heads: int) -> dict[str, Any]:
        query, key, value = split_linear(layer, self.qkv, 3)
        return {
            "attention": {
                "query": to_heads(query, "", heads),
                "key": to_heads(key, "", heads),
                "value": to_heads(value, "", heads),
                "out": from_heads(layer, self.out, heads),
            },
            "norm_attention": layer_norm(layer, self.norms[0]),
            "norm_mlp": layer_norm(layer, self.norms[1]),
            "mlp": {"hidden": linear(layer, self.mlp[0]), "output": linear(layer, self.mlp[1])},
        }


KINDS = ("weight", "bias")


def check_heads(heads: int, width: int) -> None:
    """Raises UserError unless the heads divide the width."""
    if heads < 1 or width % heads:
        raise UserError(f"{heads} heads do not divide the width {width}: give their number with --num-heads")


def check_fit(found: Foreign) -> None:
    """Raises UserError if the parameters are not those of the model, in names and shapes; some may be missing."""
    model = models.build(found.model, found.task)
    shapes = jax.eval_shape(model.init, jax.random.key(0), abstract_inputs(found.task, 1))["params"]
    wanted = {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(nn.unbox(shapes))}
    for path, leaf in jax.tree.leaves_with_path(found.params):
        name = path_name(path)
        if jnp.shape(leaf) != wanted.get(name):
            raise UserError(
                f"the tensors of this {found.title} do not fit together: {name} becomes {jnp.shape(leaf)} where the "
                f"others ask for {wanted.get(name)}"
            )
