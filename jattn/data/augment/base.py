"""What all augmentations are."""

import abc
from collections.abc import Callable

import jax

from jattn.types import Array, Int, Key, PyTree, Shaped


class Augmentation(abc.ABC):
    """A change of pictures with values 0 to 255, at random. Subclasses are frozen dataclasses of their options."""

    @abc.abstractmethod
    def __call__(
        self, images: Shaped[Array, "B h w c"], ids: Int[Array, " B"], key: Key[Array, ""], size: int
    ) -> Shaped[Array, "B H W c"]:
        """The pictures, each changed by what is drawn from `fold_in(key, id)`: the same in whatever batch it is.

        Args:
          images: uint8, or float32 after an augmentation that computes between pixels or values.
          ids: of the examples.
          key: of this augmentation in this step.
          size: pixels a side of what the model gets; crops are made to it.
        """


def by_example(
    change: Callable[..., PyTree], images: Shaped[Array, "B h w c"], ids: Int[Array, " B"], key: Key[Array, ""]
) -> PyTree:
    """`change(image, key)` of each picture, its key folded with the example's id."""
    return jax.vmap(lambda image, example_id: change(image, jax.random.fold_in(key, example_id)))(images, ids)
