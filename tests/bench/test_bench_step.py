"""The benchmarks of whole steps and of the pipeline that feeds them."""

import dataclasses
import functools
import os

import numpy as np
import pytest

from jattn import data
from jattn.__main__ import parser
from jattn.bench import results, step
from jattn.bench.made_pictures import made
from jattn.bench.shapes import SHAPES, RandomData
from jattn.bench.targets import TARGETS
from jattn.config import DataConfig, ModelConfig
from jattn.data import train_batch
from jattn.data.cifar import CIFAR100
from jattn.errors import UserError
from jattn.literals import parse_indexed_calls
from jattn.models.build import build
from tests import runs
from tests.data.files import small

TINY = (
    "--set=model.width=12", "--set=model.depth=1", "--set=model.mlp_dim=8", "--set=data.batch_size=2",
    "--set=optim.name=sgd",
)  # fmt: skip


rate = functools.cache(step.matmul_rate)


@pytest.fixture(autouse=True)
def _products_are_timed_once(monkeypatch):
    monkeypatch.setattr(step, "matmul_rate", rate)


# What a benchmark chooses: the mechanism, and no dropout of its weights, which the peers leave out too.
FREE = {"attention", "layers", "attention_dropout_rate", "initialization", "class_token_std"}


@pytest.mark.parametrize(
    ("shape", "recipe"),
    [("vit_tiny", "convnn_vit:attention,as_published"), ("language_model", "neural_wikitext103:neural,as_published")],
)
def test_built_in_models_are_those_of_the_recipes(shape, recipe):
    """Every dropout included: a step that drops less than its peer does would win by that."""
    ours, theirs = SHAPES[shape].config(), runs.get_config(*recipe.split(":"))
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in FREE]
    found, expected = ({name: getattr(config.model, name) for name in names} for config in (ours, theirs))
    assert found == expected


def test_the_language_model_has_the_recipes_attention():
    """Biases of projections included, which the peer has not."""
    recipe = runs.get_config("neural_wikitext103", "neural")
    assert SHAPES["language_model"].config().model.attention == recipe.model.attention
    (layer,) = parse_indexed_calls(recipe.model.layers).values()
    target = step.config_of("language_model", list(TARGETS["language_model"].options))
    (timed,) = parse_indexed_calls(target.model.layers).values()
    assert timed == (layer[0], layer[1] | {"projection_dim": 2})


def run(*argv):
    args = parser().parse_args(["bench", *argv])
    args.run(args)


def test_steps_of_a_built_in_model_with_several_mechanisms(tmp_path):
    out = tmp_path / "out.json"
    run("step", "vit_tiny", *TINY, "--mechanisms=softmax,conv1d(kernel_size=3)", "--repeats=2", f"--out={out}")
    rows = results.read(out)["rows"]
    assert [row["case"]["mechanism"] for row in rows] == ["softmax", "conv1d(kernel_size=3)"]
    for row in rows:
        assert row["case"]["batch"] == 2
        assert row["scratch_bytes"] > 0
        assert row["flops"] > 3 * 2 * 196 * 2 * 768 * 12  # the patches' embedding alone, both examples, three times


def test_steps_of_a_config_file_with_options(tmp_path):
    out = tmp_path / "out.json"
    run(
        "step",
        "configs/digits_vit.py:smoke",
        "--set=data.batch_size=4",
        "--set=optim.name=sgd",
        "--repeats=1",
        f"--out={out}",
    )
    (row,) = results.read(out)["rows"]
    assert (row["case"]["batch"], row["case"]["model"]) == (4, "configs/digits_vit.py:smoke")


def test_options_reach_built_in_models():
    config = step.config_of("language_model", ["model.layers=0:neural", "optim.clip_norm=1.5", "model.mlp_dim=None"])
    assert (config.model.layers, config.optim.clip_norm, config.model.mlp_dim) == ("0:neural", 1.5, None)
    assert step.config_of("language_model", []).model.layers == ""


@pytest.mark.parametrize("name", SHAPES)
def test_built_in_models_are_of_the_sizes_they_are_named_by(name):
    config = SHAPES[name].config()
    model = build(config.model, SHAPES[name].task)
    assert (model.depth, model.width, model.max_length, config.data.batch_size) == {
        "vit_tiny": (12, 192, 197, 8),
        "language_model": (8, 512, 1024, 1),
    }[name]


def test_random_data_is_of_its_task():
    task = SHAPES["language_model"].task
    batch = train_batch(RandomData(task), 0, 0, 3)
    assert batch["inputs"].shape == batch["targets"].shape == batch["weight"].shape == (3, task.length)
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    pictures = train_batch(RandomData(SHAPES["vit_tiny"].task), 0, 0, 3)
    assert (pictures["inputs"].shape, pictures["targets"].shape) == ((3, 224, 224, 3), (3,))


def test_the_pipeline_beside_its_step(tmp_path):
    out = tmp_path / "out.json"
    run("input", "configs/digits_vit.py:smoke", "--set=optim.name=sgd", "--batches=2", "--repeats=2", f"--out={out}")
    rows = results.read(out)["rows"]
    assert [row["case"]["part"] for row in rows] == ["batches", "placed", "step"]
    for row in rows:
        assert row["items_per_second"] == pytest.approx(2 * 16 / (row["milliseconds"] / 1e3))


def test_a_pipeline_of_made_up_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jattn.bench.made_pictures.SIZE", (20, 16))
    out = tmp_path / "out.json"
    smoke = "configs/convnn_vit.py:smoke"  # a folder of pictures
    before = os.environ.get("JATTN_CACHE")
    run("input", smoke, "--made", "--parts=batches", "--batches=2", "--repeats=1", f"--out={out}")
    (row,) = results.read(out)["rows"]
    assert row["items_per_second"] > 0
    assert f"{smoke}: the first batch was there after" in capsys.readouterr().out
    assert os.environ.get("JATTN_CACHE") == before


@pytest.mark.parametrize("source", ["folder", "huggingface"])
def test_made_up_files_are_read_as_the_data_set(tmp_path, monkeypatch, source):
    monkeypatch.setattr(CIFAR100, "archives", tuple(small(archive, 30) for archive in CIFAR100.archives))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("JATTN_CACHE", str(tmp_path / "cache"))
    dataset = data.build(made(DataConfig(name="cifar100", source=source, options="valid_size=5"), tmp_path))
    assert [dataset.size(split) for split in dataset.splits] == [25, 5, 30]
    batch = train_batch(dataset, 0, 0, 25)
    assert len(np.unique(batch["targets"])) > 10
    assert batch["inputs"].std() > 60


def test_made_up_folders_of_imagenet(tmp_path, monkeypatch):
    monkeypatch.setattr("jattn.bench.made_pictures.SIZE", (20, 16))
    monkeypatch.setattr("jattn.bench.made_pictures.PER_CLASS", 2)
    config = DataConfig(name="imagenet", source="folder", options="image_size=8, stored_size=8")
    dataset = data.build(made(config, tmp_path))
    assert [dataset.size(split) for split in dataset.splits] == [1998, 2, 2000]
    assert train_batch(dataset, 0, 0, 3)["weight"].all()
    assert made(DataConfig(name="digits"), tmp_path) == DataConfig(name="digits")
    with pytest.raises(UserError, match="--made makes no files for source 'tfds' of imagenet"):
        made(DataConfig(name="imagenet", source="tfds"), tmp_path)


def test_mistakes_are_sentences():
    for argv, sentence in (
        (("step", "vit_huge"), "there is no model 'vit_huge'"),
        (("step", "nowhere.py"), "there is no config file 'nowhere.py'"),
        (("step", "vit_tiny", "--set=model.widht=3"), "did you mean"),
        (("step", "vit_tiny", "--set=model.width"), "write NAME=VALUE"),
        (("step", "vit_tiny", "--set=model.width=wide"), "config.model.width must be"),
        (("input", "vit_tiny"), "has no pipeline"),
        (("input", "configs/digits_vit.py:smoke", "--parts=stepp"), "unknown part 'stepp': did you mean 'step'"),
        (("input", "configs/digits_vit.py:smoke", "--batches=0"), "at least 1 batch"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(*argv)


def test_the_released_model_in_the_same_run(tmp_path):
    pytest.importorskip("torch", reason="peers are in PyTorch: pip install -r requirements-bench.txt")
    out = tmp_path / "out.json"
    run("step", "vit_tiny", *TINY, "--mechanisms=kvt(topk=5),super", "--peers", "--repeats=2", f"--out={out}")
    rows = results.read(out)["rows"]
    assert not [row["error"] for row in rows if "error" in row]
    cases = [(row["case"]["mechanism"], row["case"]["implementation"]) for row in rows]
    assert cases[:2] == [("kvt(topk=5)", "chosen"), ("kvt(topk=5)", "released")]
    assert rows[0]["times_better_than"]["released"]["speed"] > 0
