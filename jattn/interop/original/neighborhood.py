"""One-dimensional neighborhood attention as NATTEN's module has it."""

from jattn.attention import NeighborhoodAttention
from jattn.errors import UserError
from jattn.interop.original.rules import Original, Params, Settings, from_heads, split_linear, to_heads
from jattn.types import Array


def neighborhood_attention(settings: Settings) -> NeighborhoodAttention:
    """`NeighborhoodAttention1D`; what its settings leave out is as in its signature.

    Raises:
      UserError: a stride, which jattn does not have.
    """
    if settings.get("stride", 1) != 1:
        raise UserError(f"stride {settings['stride']} of NeighborhoodAttention1D is not in jattn: it must be 1")
    return NeighborhoodAttention(
        settings["num_heads"],
        causal=settings.get("is_causal", False),
        kernel_size=settings["kernel_size"],
        dilation=settings.get("dilation", 1),
        qkv_bias=settings.get("qkv_bias", True),
        qk_scale=settings.get("qk_scale"),
        as_published=True,
    )


def neighborhood_attention_params(settings: Settings, params: Params) -> dict[str, dict[str, Array]]:
    """One Linear for queries, keys and values, features ordered (part, head, feature); proj with a bias."""
    heads = settings["num_heads"]
    parts = zip(("query", "key", "value"), split_linear(params, "qkv", 3), strict=True)
    return {name: to_heads(part, "", heads) for name, part in parts} | {"out": from_heads(params, "proj", heads)}


ORIGINALS = {
    "neighborhood_attention_1d": {
        "NeighborhoodAttention1D": Original(neighborhood_attention, neighborhood_attention_params)
    }
}
"""What `jattn.interop.original` knows of them."""
