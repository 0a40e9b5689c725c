"""What data sets of colour pictures share: their options, and what the model gets of a picture."""

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from jattn.data.augment import normalized, parse, resized
from jattn.data.dataset import Dataset
from jattn.data.options import check_range
from jattn.data.streams import permutation, stream
from jattn.errors import UserError
from jattn.task import Task
from jattn.types import Array, Float, Int, Key


@dataclass(frozen=True)
class Pictures(Dataset):
    """Pictures uint8 (B, size, size, 3) with a class each, read from elsewhere than the package.

    Files are opened when the first size or example is asked for, not before: a model can be built without them.
    """

    sources: ClassVar[tuple[str, ...]] = ("folder", "huggingface", "tfds")

    source: str = "folder"
    path: str = ""  # of a folder or file, or a data set's name on the hub; "" = where the data set is usually kept
    image_size: int | None = None  # pixels a side that the model gets: the middle of a larger picture; None = as stored
    mean: tuple[float | int, ...] = (0.5, 0.5, 0.5)  # of red, green and blue, 1 being the brightest: subtracted
    std: tuple[float | int, ...] = (0.5, 0.5, 0.5)  # and divided by
    augmentation: str = ""  # of training pictures, one after the other: "random_crop(padding=4), flip" (docs/data.md)
    split_seed: int = 0  # another seed, other pictures held out

    def __post_init__(self):
        check_range(self, "split_seed", 0)
        if self.image_size is not None:
            check_range(self, "image_size", 1)
        parse(self.augmentation)
        for name, low in (("mean", 0.0), ("std", 1e-6)):
            value = getattr(self, name)
            numbers = all(isinstance(v, int | float) and low <= v <= 1 for v in value)
            if len(value) != 3 or not numbers:
                raise UserError(
                    f"option {name}={value} of {type(self).__name__} must be three numbers between {low} and 1"
                )

    @property
    @abc.abstractmethod
    def num_classes(self) -> int:
        """Classes are 0 .. num_classes - 1."""

    @property
    @abc.abstractmethod
    def stored(self) -> int:
        """Pixels a side of what `examples` returns."""

    @property
    def task(self) -> Task:
        """Classes of pictures."""
        size = self.image_size or self.stored
        return Task(kind="image", num_classes=self.num_classes, image_shape=(size, size, 3))

    def prepare(
        self, inputs: UInt8[Array, "B h w 3"], ids: Int[Array, " B"], key: Key[Array, ""] | None
    ) -> Float[Array, "B H W 3"]:
        """Pictures of the model's size, augmented if key is given, with mean and std of the channels taken out."""
        size = self.image_size or self.stored
        if key is not None:
            inputs = parse(self.augmentation).apply(inputs, ids, key, size)
        return normalized(resized(inputs, size), self.mean, self.std)

    def mix(
        self,
        inputs: Float[Array, "B h w 3"],
        others: Float[Array, "B h w 3"],
        ids: Int[Array, " B"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, "B h w 3"], Float[Array, " B"] | None]:
        """Pictures mixed, if `augmentation` ends with a mixture, and the share that each keeps of itself."""
        return parse(self.augmentation).mix(inputs, others, ids, key)

    def __getstate__(self) -> dict[str, Any]:
        """The options alone: what was read from files is read again where it is needed."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def described(dataset: Pictures, kind: str) -> str:
    """One line for the log: what the pictures are, their size and how many each split has."""
    sizes = ", ".join(f"{dataset.size(split):,} {split}" for split in dataset.splits)
    side = dataset.image_size or dataset.stored
    return f"{kind}, {dataset.num_classes} classes of {side}x{side} pixels ({sizes})"


def held_out(purpose: str, seed: int, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A random division of 0 .. size - 1: those that stay, and `count` that are held out, both ascending."""
    order = permutation(stream(purpose, seed), size)
    return np.sort(order[count:]), np.sort(order[:count])
