"""Attention as libraries compute it: XLA's and cuDNN's, through `jax.nn.dot_product_attention`."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jattn.core.biases import Causal, Sum, Window
from jattn.core.call import Call
from jattn.core.choice import Request
from jattn.core.scores import Dot, features
from jattn.types import Array, Float


@jax.custom_vjp
def _without_gradient(lse: Array, q: Array) -> Array:
    return lse


def _forward(lse, q):
    return lse, None


def _backward(_, cotangent):
    raise TypeError('implementations "xla" and "cudnn" do not differentiate lse: use "blockwise" or "dense"')


_without_gradient.defvjp(_forward, _backward)


def terms(bias: object) -> list:
    """The biases that add up to this one."""
    if bias is None:
        return []
    return [part for term in bias.terms for part in terms(term)] if isinstance(bias, Sum) else [bias]


def library(call: Call, implementation: str) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
    """Plain dot-product attention, optionally causal or in a window."""
    q = call.ungroup(features(call.q)).swapaxes(1, 2)
    k, v = (x[:, :, 0].swapaxes(1, 2) for x in (features(call.k), call.v))
    windows = [(term.left, term.right) for term in terms(call.bias) if isinstance(term, Window)]
    sides = (min(left for left, _ in windows), min(right for _, right in windows)) if windows else None
    out, lse = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=call.score.scale,
        is_causal=any(isinstance(term, Causal) for term in terms(call.bias)),
        local_window_size=sides,
        implementation=implementation,
        return_residual=True,
    )
    lse = jnp.astype(lse, jnp.promote_types(lse.dtype, jnp.float32)).swapaxes(1, 2)
    return out.swapaxes(1, 2), _without_gradient(lse, q)


def library_cannot(request: Request, implementation: str) -> str | None:
    """Why the library cannot serve a request, or None if it can."""
    return next(_objections(request, cudnn=implementation == "cudnn"), None)


def _objections(request: Request, cudnn: bool) -> Iterator[str]:
    if cudnn and request.platform not in ("gpu", "cuda"):
        yield "it needs an NVIDIA GPU"
    if cudnn and request.v.dtype not in (jnp.float16, jnp.bfloat16):
        yield "it takes float16 and bfloat16 only"
    if type(request.score) is not Dot:
        yield "it computes dot-product scores only"
    elif features(request.k).shape[-1] != request.v.shape[-1]:
        yield "it needs values as wide as keys"
    kinds = {type(term) for term in terms(request.bias)}
    if not kinds <= {Causal, Window}:
        yield "its only biases are causal and window"
    if kinds and request.queries != request.keys:
        yield "its causal and window masks need as many queries as keys"
    if not (isinstance(request.offset, int) and request.offset == 0):
        yield "it has no offset of queries"
    if request.mask is not None:
        yield "it gives rows without keys a uniform softmax, so it takes no mask"
    if request.dropout is not None:
        yield "it has another dropout than by hash"
