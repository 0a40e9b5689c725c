"""ImageNet-1k: 1,281,167 training and 50,000 validation pictures of 1,000 classes.

Source: O. Russakovsky, J. Deng et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015
(arXiv:1409.0575). Classes are numbered in the order of their WordNet ids, as by everybody.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from jattn.data import hub, prepared
from jattn.data.decoding import Encoded
from jattn.data.encoded_pictures import EncodedPictures
from jattn.data.image_folder import Folder, class_names
from jattn.data.options import check_range
from jattn.data.pictures import held_out
from jattn.data.places import data_folder
from jattn.errors import UserError

HUB_NAME = "ILSVRC/imagenet-1k"
TFDS_NAME = "imagenet2012"


@dataclass(frozen=True)
class ImageNet(EncodedPictures):
    """Training pictures are divided into train and valid; the published validation pictures are the test split.

    A folder has `train/n01440764/*.JPEG` and `val/n01440764/*.JPEG`.
    """

    mean: tuple[float | int, ...] = (0.485, 0.456, 0.406)
    std: tuple[float | int, ...] = (0.229, 0.224, 0.225)
    valid_size: int = 10_000  # training pictures held out; 0 = none are, and valid is the test split

    num_classes: ClassVar[int] = 1000

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "valid_size", 0, 1_000_000)

    def rows(self, split: str) -> tuple[Encoded, np.ndarray]:
        """Where the pictures of a split lie, and which of those belong to it."""
        if split == "test" or (split == "valid" and not self.valid_size):
            return self._test, np.arange(len(self._test))
        return self._train, self._divided[split]

    @cached_property
    def _divided(self) -> dict[str, np.ndarray]:
        size = len(self._train)
        if self.valid_size >= size:
            raise UserError(f"valid_size={self.valid_size} leaves none of the {size:,} pictures of {self._train.place}")
        return dict(zip(("train", "valid"), held_out("imagenet", self.split_seed, size, self.valid_size), strict=True))

    @cached_property
    def _train(self) -> Encoded:
        return self._part("train", "train")

    @cached_property
    def _test(self) -> Encoded:
        return self._part("validation", "val")

    def _part(self, part: str, folder: str) -> Encoded:
        if self.source == "huggingface":
            return hub.read(self.path, HUB_NAME, part, image="image", label="label")
        if self.source == "tfds":
            return prepared.read(self.path, TFDS_NAME, part, image="image", label="label")
        path = data_folder("imagenet", self.path) / folder
        if not path.is_dir():
            raise UserError(
                f"folder {path.absolute()} does not exist: ImageNet's pictures are given out after registration at "
                f"https://image-net.org/download, one folder for each class in train and val"
            )
        names = class_names(path)
        if len(names) != self.num_classes:
            raise UserError(f"{path} has {len(names):,} class folders where ImageNet-1k has {self.num_classes:,}")
        return Folder(path, names)
