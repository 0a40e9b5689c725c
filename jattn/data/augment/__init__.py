"""Random augmentation of pictures inside the compiled step, where it is many times cheaper than on the host."""

from jattn.data.augment.geometry import random_crop, random_shift, resized

__all__ = ["random_crop", "random_shift", "resized"]
