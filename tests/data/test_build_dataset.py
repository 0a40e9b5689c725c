"""From the config to a data set, and what may be wrong with it."""

from dataclasses import dataclass

import pytest

from jattn.config import DataConfig
from jattn.data import DATASETS, build
from jattn.data.digits import Digits
from jattn.data.listops import ListOps
from jattn.data.options import check_options
from jattn.errors import UserError


@pytest.mark.parametrize("name", [name for name, cls in DATASETS.items() if cls.sources == ("embedded",)])
def test_defaults_are_the_class_s_own(name):
    assert build(DataConfig(name=name, source=DATASETS[name].sources[0])) == DATASETS[name]()


def test_options_reach_the_class():
    built = build(DataConfig(name="listops", options="max_depth=3, operator_probability=1, train_size=10"))
    assert built == ListOps(max_depth=3, operator_probability=1, train_size=10)
    assert build(DataConfig(name="digits", options="max_shift=2")) == Digits(max_shift=2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "digit"}, r"unknown data set 'digit': did you mean 'digits'\? known: .*digits, .*listops, mqar"),
        ({"source": "tfds"}, "digits has no source 'tfds': choose from embedded"),
        ({"path": "/data"}, "digits is in the package and reads no path, but data.path='/data'"),
        ({"options": "max_shfit=1"}, "unknown option of data set digits 'max_shfit': did you mean 'max_shift'"),
        ({"options": "max_shift='1'"}, "max_shift='1' of data set digits must be of type int"),
        ({"options": "max_shift=True"}, "max_shift=True of data set digits must be of type int"),
        ({"options": "max_shift=1.0"}, "max_shift=1.0 of data set digits must be of type int"),
        ({"options": "max_shift=-1"}, "max_shift=-1 of Digits must be between 0 and 7"),
        ({"options": "max_shift="}, "max_shift="),
        ({"name": "mqar", "options": "power_a=None"}, r"power_a=None of data set mqar must be of type float \| int"),
        ({"name": "mqar", "options": "random_filler=1"}, "random_filler=1 of data set mqar must be of type bool"),
    ],
)
def test_mistakes(config, message):
    with pytest.raises(UserError, match=message):
        build(DataConfig(**config))


@dataclass(frozen=True)
class Elsewhere(Digits):
    """A data set that is not in the package."""

    sources = ("folder", "tfds")
    source: str = "folder"
    path: str = ""
    scale: float = 1.0
    crop: tuple[int, int] | None = None


def test_source_and_path_come_from_the_config(monkeypatch):
    monkeypatch.setitem(DATASETS, "elsewhere", Elsewhere)
    built = build(DataConfig(name="elsewhere", source="tfds", path="/data", options="max_shift=3"))
    assert (built.source, built.path, built.max_shift) == ("tfds", "/data", 3)
    with pytest.raises(UserError, match="no source 'embedded': choose from folder, tfds"):
        build(DataConfig(name="elsewhere"))
    with pytest.raises(UserError, match="unknown option of data set elsewhere 'path'"):
        build(DataConfig(name="elsewhere", source="folder", options="path='/data'"))


def test_types_of_options():
    check_options("elsewhere", Elsewhere, {"scale": 2, "crop": (3, 4)})
    check_options("elsewhere", Elsewhere, {"scale": 2.5, "crop": None})
    for wrong in ({"scale": True}, {"crop": 3}, {"crop": [3, 4]}):
        with pytest.raises(UserError, match="must be of type"):
            check_options("elsewhere", Elsewhere, wrong)
