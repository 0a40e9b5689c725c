"""What a data set asks of a model: the sizes that no option may contradict."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Sizes and kind of a data set's inputs and targets.

    kind: "language" (tokens in, next tokens out), "text" (tokens in, one class out; token 0 is padding) or
      "image" (uint8 or float pictures in, one class out).
    """

    kind: str
    num_classes: int | None = None  # text, image
    vocab_size: int | None = None  # language, text
    length: int | None = None  # language, text: tokens of the longest example
    image_shape: tuple[int, int, int] | None = None  # image: height, width, channels
    tokens_per_byte: float | None = None  # language: to turn nats per token into bits per byte; None = no bytes
    tokens_per_character: float | None = None  # language: the same for bits per character
