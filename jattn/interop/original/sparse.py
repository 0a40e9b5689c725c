"""Sparse attention as the ConvNN repository wrote it."""

from jattn.attention import SparseAttention
from jattn.interop.original.rules import Original, Params, Settings, from_heads, to_heads
from jattn.types import Array


def sparse_attention(settings: Settings) -> SparseAttention:
    """`MultiHeadSparseAttention`; its window is not used, and may be None, where the mode is "all".

    Its dropout is never off (see `jattn.attention.sparse`), so that only outputs made at rate 0 can be reproduced.
    """
    mode, window = settings.get("attn_mode", "all"), settings.get("local_attn_ctx")
    return SparseAttention(
        settings["num_heads"],
        mode=mode,
        context=1 if mode == "all" else window,
        dropout_rate=settings.get("attention_dropout", 0.0),
        use_bias=False,
        as_published=True,
    )


def sparse_attention_params(settings: Settings, params: Params) -> dict[str, dict[str, Array]]:
    """q_proj, k_proj, v_proj, out_proj without biases."""
    heads = settings["num_heads"]
    return {
        "query": to_heads(params, "q_proj", heads),
        "key": to_heads(params, "k_proj", heads),
        "value": to_heads(params, "v_proj", heads),
        "out": from_heads(params, "out_proj", heads),
    }


ORIGINALS = {"sparse_attention": {"MultiHeadSparseAttention": Original(sparse_attention, sparse_attention_params)}}
"""What `jattn.interop.original` knows of them."""
