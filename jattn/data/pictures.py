"""What data sets of colour pictures share: their options, and what the model gets of a picture."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jattn.data.dataset import Dataset
from jattn.data.options import check_range
from jattn.data.streams import permutation, stream
from jattn.errors import UserError
from jattn.types import Array, Float, Int, Key


@dataclass(frozen=True)
class Pictures(Dataset):
    """Pictures uint8 (B, size, size, 3) with a class each, read from elsewhere than the package.

    Files are opened when the first size or example is asked for, not before: a model can be built without them.
    """

    sources: ClassVar[tuple[str, ...]] = ("folder", "huggingface", "tfds")

    source: str = "folder"
    path: str = ""  # of a folder or file, or a data set's name on the hub; "" = where the data set is usually kept
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # of red, green and blue, 1 being the brightest: subtracted
    std: tuple[float, ...] = (0.5, 0.5, 0.5)  # and divided by
    split_seed: int = 0  # another seed, other pictures held out

    def __post_init__(self):
        check_range(self, "split_seed", 0)
        for name, low in (("mean", 0.0), ("std", 1e-6)):
            value = getattr(self, name)
            numbers = all(isinstance(v, int | float) and low <= v <= 1 for v in value)
            if len(value) != 3 or not numbers:
                raise UserError(
                    f"option {name}={value} of {type(self).__name__} must be three numbers between {low} and 1"
                )

    def prepare(
        self, inputs: UInt8[Array, "B h w 3"], ids: Int[Array, " B"], key: Key[Array, ""] | None
    ) -> Float[Array, "B h w 3"]:
        """Pictures with mean and std of the three channels taken out."""
        mean, std = (jnp.array(value, jnp.float32)[None, None, None] for value in (self.mean, self.std))
        return (inputs.astype(jnp.float32) / 255 - mean) / std

    def __getstate__(self) -> dict[str, Any]:
        """The options alone: what was read from files is read again where it is needed."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def held_out(purpose: str, seed: int, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A random division of 0 .. size - 1: those that stay, and `count` that are held out, both ascending."""
    order = permutation(stream(purpose, seed), size)
    return np.sort(order[count:]), np.sort(order[:count])
