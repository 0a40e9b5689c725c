"""The reference: builds the (T, S) matrix, differentiable any number of times in any mode."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jattn.core.call import Call, pair_allowed, pair_kept, pair_scores
from jattn.types import Array, Float


def logits(call: Call) -> Float[Array, "B K G T S"]:
    """Score plus bias, -inf where a pair may not attend."""
    q_pos, k_pos = call.offset + jnp.arange(call.queries), jnp.arange(call.keys)
    values = pair_scores(call.score, call.heads, call.q, call.k, q_pos, k_pos)
    if call.bias is not None:
        bias = call.bias(q_pos[:, None] - k_pos[None, :])
        _, key_heads, per_key = call.heads
        bias = bias.reshape(1, *((1, 1) if bias.shape[0] == 1 else (key_heads, per_key)), *bias.shape[1:])
        values = values + bias
    if call.mask is not None:
        values = jnp.where(pair_allowed(call.mask, call.heads, call.q, call.k, q_pos, k_pos), values, -jnp.inf)
    return values


def softmax(logits: Float[Array, "*B S"]) -> tuple[Float[Array, "*B S"], Float[Array, "*B"]]:
    """Weights and log-normaliser over the last axis; a row of -inf gives zeros and -inf, and zero gradients."""
    # A constant: it cancels. The derivative of a maximum looks for the entries equal to it, and finds none (0 / 0)
    # where the compiler computes the logits twice and rounds them differently.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    numerators = jnp.exp(logits - largest)
    total = numerators.sum(-1, keepdims=True)
    total_or_one = jnp.where(total > 0, total, 1.0)
    lse = jnp.where(total > 0, jnp.log(total_or_one) + largest, -jnp.inf)
    return numerators / total_or_one, lse[..., 0]


def dense(call: Call) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
    """Attention through the full matrix of weights."""
    weights, lse = softmax(logits(call))
    if call.dropout is not None:
        q_pos, k_pos = call.offset + jnp.arange(call.queries), jnp.arange(call.keys)
        kept = pair_kept(call.dropout, call.heads, call.example, call.head, q_pos, k_pos)
        weights = jnp.where(kept, weights / (1 - call.dropout.rate), 0.0)
    out = jnp.einsum(
        "bkgts,bkse->bkgte",
        weights.astype(call.v.dtype),
        call.v[:, :, 0],
        preferred_element_type=weights.dtype,
    )
    out = checkpoint_name(call.ungroup(out.astype(call.v.dtype)), "attention_out")
    return out, checkpoint_name(call.ungroup(lse), "attention_lse")
