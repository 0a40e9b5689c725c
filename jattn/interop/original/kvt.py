"""k-NN attention as the ConvNN repository wrote it."""

from jattn.attention import KvtAttention
from jattn.interop.original.rules import Original, Params, Settings, from_heads, split_linear, to_heads
from jattn.types import Array


def kvt_attention(settings: Settings) -> KvtAttention:
    """`MultiHeadKvtAttention`; what its settings leave out is as in its signature."""
    return KvtAttention(
        settings["num_heads"],
        topk=settings.get("topk", 100),
        qkv_bias=settings.get("qkv_bias", False),
        qk_scale=settings.get("qk_scale"),
        use_bias=False,
        as_published=True,
    )


def kvt_attention_params(settings: Settings, params: Params) -> dict[str, dict[str, Array]]:
    """One Linear for queries, keys and values, features ordered (part, head, feature); proj without a bias."""
    heads = settings["num_heads"]
    parts = zip(("query", "key", "value"), split_linear(params, "qkv", 3), strict=True)
    return {name: to_heads(part, "", heads) for name, part in parts} | {"out": from_heads(params, "proj", heads)}


ORIGINALS = {"kvt_attention": {"MultiHeadKvtAttention": Original(kvt_attention, kvt_attention_params)}}
"""What `jattn.interop.original` knows of them."""
