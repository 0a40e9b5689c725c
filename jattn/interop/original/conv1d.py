"""The convolution over tokens of the ConvNN repository."""

from jattn.attention import Conv1dAttention
from jattn.interop.original.rules import Original, Params, Settings, from_heads, to_heads
from jattn.types import Array


def conv1d_attention(settings: Settings) -> Conv1dAttention:
    """`MultiHeadConv1dAttention`."""
    return Conv1dAttention(settings["num_heads"], kernel_size=settings["kernel_size"], as_published=True)


def conv1d_attention_params(settings: Settings, params: Params) -> dict[str, dict[str, Array]]:
    """W_x, conv (out, in, tap) and W_o, all with biases."""
    heads = settings["num_heads"]
    return {
        "value": to_heads(params, "W_x", heads),
        "conv": {"kernel": params["conv.weight"].transpose(2, 1, 0), "bias": params["conv.bias"]},
        "out": from_heads(params, "W_o", heads),
    }


ORIGINALS = {
    "conv1d_attention": {"MultiHeadConv1dAttention": Original(conv1d_attention, conv1d_attention_params)},
}
