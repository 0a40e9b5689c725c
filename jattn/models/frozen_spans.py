"""A trained model whose heads no longer learn how far back to look, and no longer pay for what they do not look at."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jattn.attention import MECHANISMS, AdaptiveSpanAttention
from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from jattn.models.transformer import Transformer


def freeze_spans(model: nn.Module, params: Mapping[str, Any]) -> nn.Module:
    """The model with the spans and waves of all its adaptive-span layers as these parameters have them, fixed.

    Args:
      model: one of `jattn.models.MODELS`, or an `AdaptiveSpanAttention`.
      params: its trained parameters, `variables["params"]`.

    Returns:
      a model that takes the same parameters and gives the same outputs. What each head looks at is a static option of
      its layers (`distances`), so that blocks are as narrow as they may be, and decoding gathers unmasked keys alone.
      Its spans do not learn: their gradients are zero, and the loss has no term for them.

    Raises:
      UserError: the model has no adaptive-span layer, or the parameters are not known yet (inside of `jax.jit`).

    >>> import jax, jax.numpy as jnp
    >>> from jattn.models import LanguageModel
    >>> spans = mechanism("adaptive_span", {"max_span": 4, "softness": 2})
    >>> model = LanguageModel(vocab_size=11, width=8, depth=1, num_heads=2, attention=spans)
    >>> params = nn.unbox(model.init(jax.random.key(0), jnp.zeros((1, 5), jnp.int32))["params"])
    >>> dict(freeze_spans(model, params).attention[0].options)["distances"]
    ((0, 1, 2, 3), (0, 1, 2, 3))
    """
    params = nn.unbox(params)
    if isinstance(model, AdaptiveSpanAttention):
        return model.frozen(params)
    layers = list(model.mechanisms()) if isinstance(model, Transformer) else []
    found = [i for i, layer in enumerate(layers) if MECHANISMS[layer.name] is AdaptiveSpanAttention]
    if not found:
        raise UserError("freeze_spans needs an adaptive_span layer, or a model that has some: this one has none")
    chosen = list(model.attention) if isinstance(model.attention, tuple) else [model.attention] * model.depth
    for i in found:
        module = layers[i].module(num_heads=model.num_heads, causal=model.causal)
        distances = module.frozen(params[f"block_{i}"]["attention"]).distances
        chosen[i] = mechanism(chosen[i].name, dict(chosen[i].options) | {"distances": distances})
    return model.clone(attention=tuple(chosen))
