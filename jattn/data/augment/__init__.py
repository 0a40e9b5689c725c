"""Random augmentation of pictures inside the compiled step, where it is many times cheaper than on the host.

In a config it is a list of names with options, applied in this order, by `data.options`:

    augmentation='random_resized_crop(scale=(0.05, 1)), flip, color_jitter(brightness=0.2), mixup(alpha=0.2)'
"""

from dataclasses import dataclass

import jax

from jattn.data.augment.base import Augmentation
from jattn.data.augment.colour import ColorJitter, GaussianNoise, normalized
from jattn.data.augment.geometry import (
    Flip,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Rotation,
    random_shift,
    resized,
)
from jattn.data.augment.mixing import CutMix, Mixup, partner
from jattn.data.augment.rand_augment import RandAugment
from jattn.data.options import check_options
from jattn.errors import UserError, unknown
from jattn.literals import parse_calls
from jattn.types import Array, Float, Int, Key, Shaped

__all__ = ["AUGMENTATIONS", "MIXTURES", "Pipeline", "normalized", "parse", "partner", "random_shift", "resized"]

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "resize": Resize,
    "random_crop": RandomCrop,
    "random_resized_crop": RandomResizedCrop,
    "flip": Flip,
    "rotation": Rotation,
    "color_jitter": ColorJitter,
    "gaussian_noise": GaussianNoise,
    "rand_augment": RandAugment,
}
"""Of each picture by itself."""

MIXTURES: dict[str, type[Mixup] | type[CutMix]] = {
    "mixup": Mixup,
    "cutmix": CutMix,
}
"""Of two pictures and their targets."""


@dataclass(frozen=True)
class Pipeline:
    """Augmentations one after the other, and at most one mixture at the end."""

    changes: tuple[Augmentation, ...] = ()
    mixture: Mixup | CutMix | None = None

    def apply(
        self, images: Shaped[Array, "B h w c"], ids: Int[Array, " B"], key: Key[Array, ""], size: int
    ) -> Shaped[Array, "B H W c"]:
        """Every change but the mixture, each with a key of its own."""
        for place, change in enumerate(self.changes):
            images = change(images, ids, jax.random.fold_in(key, place), size)
        return images

    def mix(
        self,
        images: Float[Array, "B h w c"],
        others: Float[Array, "B h w c"],
        ids: Int[Array, " B"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, "B h w c"], Float[Array, " B"] | None]:
        """Pictures mixed with the others, and the share of each one's own; without a mixture as they are, and None."""
        if self.mixture is None:
            return images, None
        return self.mixture(images, others, ids, jax.random.fold_in(key, len(self.changes)))


def parse(text: str) -> Pipeline:
    """The augmentations that an option lists.

    Raises:
      UserError: a name or option that does not exist, a value that is not allowed, a mixture that is not the last.
    """
    known = {**AUGMENTATIONS, **MIXTURES}
    built = []
    for name, options in parse_calls(text):
        if name not in known:
            raise unknown("augmentation", name, known)
        check_options(f"augmentation {name}", known[name], options)
        built.append(known[name](**options))
    mixtures = tuple(MIXTURES.values())
    if any(isinstance(change, mixtures) for change in built[:-1]):
        raise UserError(
            f"augmentation={text!r}: {' or '.join(MIXTURES)} may only be the last one, and only one of them"
        )
    if built and isinstance(built[-1], mixtures):
        return Pipeline(tuple(built[:-1]), built[-1])
    return Pipeline(tuple(built))
