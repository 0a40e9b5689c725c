"""Data sets, each an object that can be asked for any batch by its number."""

import dataclasses

from jattn.config import DataConfig
from jattn.data.cifar import CIFAR10, CIFAR100
from jattn.data.dataset import Batch, Dataset, eval_batch, num_eval_batches, prefetched, train_batch
from jattn.data.digits import Digits
from jattn.data.image_folder import ImageFolder
from jattn.data.imagenet import ImageNet
from jattn.data.listops import ListOps
from jattn.data.mqar import MQAR
from jattn.data.options import check_options
from jattn.data.python_docs import PythonDocs
from jattn.data.text.enwik8 import Enwik8
from jattn.data.text.imdb import IMDB
from jattn.data.text.text_files import TextFiles
from jattn.data.text.wikitext import WikiText2, WikiText103
from jattn.errors import UserError, unknown
from jattn.literals import parse_options

__all__ = [
    "DATASETS",
    "Batch",
    "Dataset",
    "build",
    "eval_batch",
    "num_eval_batches",
    "prefetched",
    "train_batch",
]

DATASETS: dict[str, type[Dataset]] = {
    # In the package: they need no network and no files.
    "digits": Digits,
    "python_docs": PythonDocs,
    "listops": ListOps,
    "mqar": MQAR,
    # From elsewhere (a folder, Hugging Face, TFDS): docs/data.md and docs/data_text.md, and Dataset.sources.
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "imagenet": ImageNet,
    "image_folder": ImageFolder,
    "text": TextFiles,
    "wikitext2": WikiText2,
    "wikitext103": WikiText103,
    "enwik8": Enwik8,
    "imdb": IMDB,
}


def build(config: DataConfig) -> Dataset:
    """The data set that a config asks for.

    Raises UserError for a name, source or option that does not exist and for a value that is not allowed.
    """
    if config.name not in DATASETS:
        raise unknown("data set", config.name, DATASETS)
    cls = DATASETS[config.name]
    if config.source not in cls.sources:
        raise UserError(f"data set {config.name} has no source {config.source!r}: choose from {', '.join(cls.sources)}")
    options = parse_options(config.options)
    check_options(f"data set {config.name}", cls, options)
    fields = {field.name for field in dataclasses.fields(cls)}
    if config.tokenizer:
        if "tokenizer" not in fields:
            raise UserError(f"data set {config.name} takes no tokenizer, but data.tokenizer={config.tokenizer!r}")
        options["tokenizer"] = config.tokenizer
    if cls.sources != ("embedded",):
        return cls(source=config.source, path=config.path, **options)
    if config.path:
        raise UserError(f"data set {config.name} is in the package and reads no path, but data.path={config.path!r}")
    return cls(**options)
