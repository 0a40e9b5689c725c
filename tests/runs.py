"""Small finished runs that several tests look at: each is trained once a session."""

import fcntl
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from jattn import data
from jattn.__main__ import main
from jattn.compare import runs, worker
from jattn.compare.grid import cells, parse_axis
from jattn.config import Config
from jattn.data import Dataset
from jattn.data.pictures import Pictures
from jattn.task import Task
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

BERT, GPT2, WORDS, BYTES = 28_996, 50_257, 20_000, 256
"""Tokens: bert-base-cased, GPT-2, what the IMDB experiment keeps, and all values of a byte."""

TASKS = {
    "neural_wikitext103": Task("language", vocab_size=BERT, length=1024),
    "natural_wikitext2": Task("language", vocab_size=GPT2, length=32),
    "reduced_imdb": Task("text", num_classes=2, vocab_size=WORDS, length=32),
    "adaptive_enwik8": Task("language", vocab_size=BYTES, length=512),
    "adaptive_span_enwik8": Task("language", vocab_size=BYTES, length=8192),
}
"""What configs of texts, which would have to be read to tell, ask of a model."""


class Unread(Dataset):
    """A data set whose files are not there: as many black pictures, or texts of token 0, as are asked for."""

    def __init__(self, task: Task, pictures: Pictures | None = None):
        self._task, self._pictures = task, pictures
        if pictures is not None:
            self.prepare, self.mix = pictures.prepare, pictures.mix

    @property
    def task(self):
        return self._task

    def size(self, split):
        return 1000

    def examples(self, split, index, epoch):
        count = len(index)
        one_each = np.ones(count, np.int32)
        if self._pictures is not None:
            side = self._pictures.stored
            inputs, targets = np.zeros((count, side, side, 3), np.uint8), one_each
        else:
            inputs = np.zeros((count, self._task.length), np.int32)
            targets = inputs if self._task.kind == "language" else one_each
        return {"inputs": inputs, "targets": targets, "weight": targets.astype(np.float32)}

    def description(self):
        return "nothing"


def full_experiment(name: str) -> setup.Experiment:
    """What a config describes; of a recipe whose data are files, without them and with its first two layers."""
    config = get_config(name)
    if name not in FILES:
        return setup.build(config)
    config.model.depth = min(config.model.depth, 2)
    if name in TASKS:
        config.logging.sample_every = None  # that would take the tokenizer
        return setup.build(config, Unread(TASKS[name]))
    dataset = data.build(config.data)
    return setup.build(config, Unread(dataset.task, dataset))


def smoke_config(tmp_path_factory, name: str) -> Config:
    """A config's smoke version, with files made for it where it reads any."""
    config = get_config(name, "smoke")
    if name in FILES:
        folder = session_folder(tmp_path_factory) / "files" / name
        if not folder.exists():
            FILES[name](folder)
        config.data.path = str(folder)
    return config


def once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder of this session, filled by whichever of its workers asks for it first."""
    folder = session_folder(tmp_path_factory) / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            make(folder)
            (folder / "done").touch()
    return folder


def smoke_run(tmp_path_factory, name: str) -> Path:
    """The folder of a finished run of a config's smoke version; look at it, but copy it before you change it."""

    def make(folder):
        train(smoke_config(tmp_path_factory, name), folder / "run")

    return once(tmp_path_factory, f"smoke/{name}", make) / "run"


COMPARED = ("softmax", "local(window_size=4)")
"""Cells of `smoke_comparison`."""


def smoke_comparison(tmp_path_factory) -> Path:
    """The folder of a finished comparison of small digits models, two seeds each, and in it its page, report.html, of
    three examples; look at it, do not change it."""
    return once(tmp_path_factory, "comparison", _compare) / "dir"


def _compare(folder: Path) -> None:
    config, axis = "configs/digits_vit.py:smoke", f"model.attention.name={';'.join(COMPARED)}"
    options = ("model.depth=2", "model.implementation=dense", "optim.name=adamw", "logging.attention_every=4")
    flags = ["--noconfig.data.augment", *(f"--config.{option}" for option in options)]
    # In this process, which has imported and compiled what runs share; the command then finds them finished.
    grid = cells(config, [parse_axis(axis)], flags)
    for job in runs.make_jobs(grid, range(2), folder / "dir", "test", "best"):
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        assert worker.main(runs.worker_command(job)[3:]) == 0
    argv = ["compare", config, f"--axis={axis}", "--seeds=2", f"--workdir={folder / 'dir'}", "--no-page"]
    assert main([*argv, *flags]) == 0
    assert main(["report", f"--comparison={folder / 'dir'}", "--examples=3"]) == 0
