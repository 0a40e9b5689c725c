"""Encoded pictures (JPEG, PNG and what else PIL reads), and rows of them that lie in files."""

import abc
import io

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, UnidentifiedImageError


class Encoded(abc.ABC):
    """Pictures with a class each, read when they are asked for.

    Attributes:
      place: where they come from, for messages.
    """

    place: str

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of pictures."""

    @abc.abstractmethod
    def fetch(self, index: np.ndarray) -> tuple[list[bytes], Int32[np.ndarray, " B"]]:
        """The pictures `index` (B,) as they are encoded, and their classes. Unreadable ones are empty."""

    @abc.abstractmethod
    def name(self, place: int) -> str:
        """What to call one of them in a message."""


def decode(content: bytes, size: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in the bytes of a file, in colour.

    Args:
      content: of the file.
      size: the shorter side is brought to this many pixels (bilinear, antialiased), of the longer one the middle
        is taken; None = as it is.

    Raises:
      ValueError: it is no picture, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if size is not None:
                image.draft("RGB", (size, size))  # JPEG: decodes an eighth, a quarter or a half where that suffices
            return np.asarray(_square(image.convert("RGB"), size))
    except UnidentifiedImageError:
        raise ValueError(f"none of the formats that PIL reads, {len(content):,} bytes") from None
    except Exception as error:  # PIL's readers raise what they like on damaged files
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _square(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    middle = image.crop((left, top, left + side, top + side))
    return middle.resize((size, size), Image.Resampling.BILINEAR)
