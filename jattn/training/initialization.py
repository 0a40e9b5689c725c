"""Initial parameters as other codes draw them: `model.initialization`.

Our own (`jattn.models.layers`, and each mechanism) begin well at any width. Who wants to see a published number again
needs the published ones: PyTorch's defaults begin with embeddings of unit size, GPT-2's with residual branches that add
next to nothing.

A scheme is a table of (pattern, law); the first pattern found in a parameter's path decides. Only kernels of dense
layers and of patches, their biases, and embeddings are drawn anew. Norms, spans and class tokens, and what mechanisms
have of their own (score networks, W_A, convolutions), stay as their modules made them: as their sources do, where
`as_published` says so.
"""

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn.errors import unknown
from jattn.optim.parameters import matrix_shape, path_name
from jattn.types import Array, Float, Key, PyTree

OWN = "jattn"
"""The name of no scheme: parameters as the modules make them."""

_OF_MECHANISMS = ("mixing", "conv")
"""Modules of mechanisms whose kernels are no dense layers'."""


@dataclass(frozen=True)
class Drawn:
    """What a law is told of the parameter that it draws.

    inputs, outputs: of the layer that it belongs to; a projection to heads is a layer for each head.
    depth: blocks of the model.
    """

    shape: tuple[int, ...]
    inputs: int
    outputs: int
    depth: int


Law = Callable[[Key[Array, ""], Drawn], Float[Array, "..."]]
Scheme = tuple[tuple[str, Law], ...]


def zeros(key: Key[Array, ""], of: Drawn) -> Float[Array, "..."]:
    """Zeros."""
    del key
    return jnp.zeros(of.shape)


def normal(deviation: float) -> Law:
    """Normal with this standard deviation."""
    return lambda key, of: deviation * jax.random.normal(key, of.shape)


def uniform(bound: float) -> Law:
    """Uniform within this bound."""
    return lambda key, of: jax.random.uniform(key, of.shape, minval=-bound, maxval=bound)


def by_inputs(key: Key[Array, ""], of: Drawn) -> Float[Array, "..."]:
    """Uniform within 1 / sqrt(inputs): PyTorch's default for kernels and biases."""
    return uniform(of.inputs**-0.5)(key, of)


def xavier(key: Key[Array, ""], of: Drawn) -> Float[Array, "..."]:
    """Uniform within sqrt(6 / (inputs + outputs)): Glorot & Bengio 2010, Keras' default."""
    return uniform((6 / (of.inputs + of.outputs)) ** 0.5)(key, of)


def by_depth(key: Key[Array, ""], of: Drawn) -> Float[Array, "..."]:
    """Normal with standard deviation 0.02 / sqrt(2 depth): GPT-2's layers that add to the residual stream."""
    return normal(0.02 / math.sqrt(2 * of.depth))(key, of)


PYTORCH: Scheme = (("/kernel$", by_inputs), ("/bias$", by_inputs), ("/embedding$", normal(1.0)))
GPT2: Scheme = (
    ("/(attention/out|mlp/output)/kernel$", by_depth),
    ("/kernel$", normal(0.02)),
    ("/bias$", zeros),
    ("/embedding$", normal(0.02)),
)
KERAS: Scheme = (("/kernel$", xavier), ("/bias$", zeros), ("/embedding$", uniform(0.05)))

SCHEMES: dict[str, Scheme] = {
    OWN: (),
    "pytorch": PYTORCH,
    "gpt2": GPT2,
    "keras": KERAS,
    # NMesaC/pay-better-attention-pytorch-keras: PyTorch's, but for what projects to heads.
    "pay_better_attention": (
        ("/attention/(query|key|value)/kernel$", xavier),
        ("/attention/(query|key|value)/bias$", zeros),
        *PYTORCH,
    ),
    # jeroaranda/naturalattention: a GPT-2 whose blocks are replaced after it was initialised.
    "natural_attention": (*((f"^block_.*{pattern}", law) for pattern, law in PYTORCH), *GPT2),
}
"""Name -> scheme."""


def check(name: str) -> None:
    """UserError for a scheme that does not exist."""
    if name not in SCHEMES:
        raise unknown("model.initialization", name, SCHEMES)


def redrawn(params: PyTree, name: str, key: Key[Array, ""], depth: int) -> PyTree:
    """Parameters, boxed or not, as the scheme of this name draws them.

    Each is a function of the key and its own path: models that share a parameter share its initial value.
    """
    plain = nn.unbox(params)
    leaves = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(plain)}

    def draw(path: tuple, leaf: Array) -> Array:
        of = _drawn(path, leaf, leaves, depth)
        law = next((law for pattern, law in SCHEMES[name] if re.search(pattern, path_name(path))), None)
        if of is None or law is None:
            return leaf
        own_key = jax.random.fold_in(key, zlib.crc32(path_name(path).encode()))
        return law(own_key, of).astype(leaf.dtype)

    return nn.meta.replace_boxed(params, jax.tree.map_with_path(draw, plain))


def _drawn(path: tuple, leaf: Array, leaves: dict[str, Array], depth: int) -> Drawn | None:
    """What a law has to know; None if the parameter is not to be drawn."""
    module, _, name = path_name(path).rpartition("/")
    if name == "embedding":
        return Drawn(leaf.shape, *leaf.shape, depth)
    kernel = leaves.get(f"{module}/kernel")
    if kernel is None or module.rpartition("/")[2] in _OF_MECHANISMS:
        return None
    inputs, _ = matrix_shape((*path[:-1], jax.tree_util.DictKey("kernel")), kernel)
    return Drawn(leaf.shape, inputs, kernel.shape[-1], depth)
