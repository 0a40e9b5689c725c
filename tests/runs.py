"""Small finished runs that several tests look at: each is trained once a session."""

import fcntl
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from jattn import data
from jattn.config import Config
from jattn.data import Dataset
from jattn.data.pictures import Pictures
from jattn.training import setup, train
from tests.commands import session_folder
from tests.data import files
from tests.data.text import made

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py") if p.stem != "finetune")
"""Those that need no other run to begin with."""


def module(name: str) -> ModuleType:
    """The config file of a name, imported."""
    path = Path(__file__).parents[1] / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"configs_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def get_config(name: str, arg: str = "") -> Config:
    """What `--config=configs/<name>.py:<arg>` gives."""
    return module(name).get_config(arg)


def pictures(folder: Path) -> None:
    """Three classes of pictures."""
    files.write_classes(folder, {"left": 30, "middle": 25, "right": 25})


def text(folder: Path) -> None:
    """A page of text."""
    folder.mkdir(parents=True)
    (folder / "page.txt").write_text(made.TEXT, encoding="utf-8")


FILES: dict[str, Callable[[Path], object]] = {
    "convnn_vit": pictures,
    "neural_cifar": pictures,
    "neural_wikitext103": made.wikitext,
    "natural_wikitext2": made.wikitext,
    "reduced_imdb": lambda folder: made.imdb_csv(folder, 200),
    "adaptive_enwik8": text,
    "adaptive_span_enwik8": text,
}
"""Config -> what writes the files that its smoke version reads."""

TEXTS = [name for name in FILES if FILES[name] is not pictures]
"""Configs whose data, at full size, are texts: how many tokens there are is not known without them."""


class Unread(Dataset):
    """A data set of pictures whose files are not there: as many black ones as are asked for."""

    def __init__(self, dataset: Pictures):
        self._dataset = dataset
        self.prepare, self.mix = dataset.prepare, dataset.mix

    @property
    def task(self):
        return self._dataset.task

    def size(self, split):
        return 1000

    def examples(self, split, index, epoch):
        side = self._dataset.stored
        weight = np.ones(len(index), np.float32)
        return {
            "inputs": np.zeros((len(index), side, side, 3), np.uint8),
            "targets": np.int32(weight),
            "weight": weight,
        }

    def description(self):
        return "nothing"


def full_experiment(name: str) -> setup.Experiment:
    """What a config describes; of a recipe whose data are files, without them and with its first two layers."""
    config = get_config(name)
    dataset = data.build(config.data)
    if not isinstance(dataset, Pictures):
        return setup.build(config, dataset)
    config.model.depth = 2
    return setup.build(config, Unread(dataset))


def smoke_config(tmp_path_factory, name: str) -> Config:
    """A config's smoke version, with files made for it where it reads any."""
    config = get_config(name, "smoke")
    if name in FILES:
        folder = session_folder(tmp_path_factory) / "files" / name
        if not folder.exists():
            FILES[name](folder)
        config.data.path = str(folder)
    return config


def smoke_run(tmp_path_factory, name: str) -> Path:
    """The folder of a finished run of a config's smoke version; look at it, but copy it before you change it."""
    folder = session_folder(tmp_path_factory) / "smoke" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            train(smoke_config(tmp_path_factory, name), folder / "run")
            (folder / "done").touch()
    return folder / "run"
