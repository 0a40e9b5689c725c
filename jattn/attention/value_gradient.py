"""A second gradient of the value projection, mixed over the tokens by the attention's own weights.

With V = X W + b the values of a head, G = dL/dV and A the weights of that head's attention to its own sequence,

    dL/dW = X^T G             the gradient
            X^T (I + A) G     what is computed here, the "attention gradient" of `docs/attention_informed.md`

summed over examples, and for b the sums over tokens of G and of (I + A) G. A is taken without dropout, and rows of
padded queries contribute nothing.

`model.apply` gives it as the derivative with respect to a collection of zeros, `COLLECTION`, that has the value
projections' parameters under their own paths: `zeros` makes it, nothing is computed unless it is given.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn import core
from jattn.errors import UserError
from jattn.types import Array, Float, PyTree, Tokens

COLLECTION = "attention_gradients"


def zeros(model: nn.Module, params: PyTree, inputs: Array) -> dict[str, PyTree]:
    """The collection for a model with these parameters, to be given to `apply` beside "params". It has no entry for
    layers that have no such gradient. Only shapes are looked at."""
    _, made = jax.eval_shape(lambda: model.apply({"params": params}, inputs, deterministic=True, mutable=[COLLECTION]))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), {COLLECTION: made.get(COLLECTION, {})})


def observed(
    module: nn.Module, inputs: Any, q: Tokens, k: Tokens, v: Float[Array, "B K S E"], terms: dict[str, Any]
) -> Float[Array, "B K S E"]:
    """v, whose gradient also reaches the module's entry of the collection, if there is one.

    Raises:
      UserError: the module attends several times, so that its weights are not those of one call.
    """
    asked = module.is_mutable_collection(COLLECTION) and not module.is_initializing()
    if not (asked or module.has_variable(COLLECTION, "value")):
        return v
    params = module.variables["params"].get("value", {})
    tokens, queries = inputs.context, inputs.x.shape[1]
    projected = (tokens.shape[0], params["kernel"].shape[1], queries, params["kernel"].shape[2]) if params else ()
    if v.shape != projected or tokens.shape[:2] != inputs.x.shape[:2]:
        return v
    if asked:
        if module.has_variable(COLLECTION, "value"):
            raise UserError(
                f"{type(module).__name__} attends in several parts, for which attention_informed form='paper' is not "
                "defined: use another mechanism, or form='published'"
            )
        module.put_variable(COLLECTION, "value", jax.tree.map(jnp.zeros_like, params))
    probe = module.get_variable(COLLECTION, "value")
    tokens = jax.lax.stop_gradient(tokens)
    change = jnp.einsum("bsc,cke->bkse", tokens, probe["kernel"].astype(tokens.dtype))
    if "bias" in probe:
        change = change + probe["bias"].astype(tokens.dtype)[None, :, None]
    leaves, structure = jax.tree.flatten((q, k, terms, inputs.query_mask))
    return _with(structure, v, change.astype(v.dtype), leaves)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with(
    structure: Any, v: Float[Array, "B K S E"], change: Float[Array, "B K S E"], leaves: list
) -> Float[Array, "B K S E"]:
    """v; `change`, which is zero, is left out, but gets (I + A) times the gradient of v."""
    return v


def _forward(structure: Any, v: Array, change: Array, leaves: list) -> tuple[Array, list]:
    return v, leaves


def _backward(structure: Any, leaves: list, gradient: Array) -> tuple[Array, Array, None]:
    q, k, terms, real = structure.unflatten(leaves)
    mixed, lse = core.attend(q, k, gradient, **terms)
    if isinstance(terms["score"], core.OverQueries):
        mixed = mixed * jnp.exp(lse)[..., None]
    if real is not None:
        mixed = jnp.where((real != 0)[:, None, :, None], mixed, 0.0)
    # Query heads that share a key head share its values: the mean of their weights is that key head's A.
    batch, key_heads = gradient.shape[:2]
    mixed = mixed.reshape(batch, key_heads, -1, *mixed.shape[2:]).mean(2)
    return gradient, gradient + mixed.astype(gradient.dtype), None


_with.defvjp(_forward, _backward)
