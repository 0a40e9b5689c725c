"""What `python -m jattn import` writes is a run: it can be evaluated and trained further."""

import runpy

import numpy as np
import pytest

from jattn import data
from jattn.__main__ import main
from jattn.data.text.subwords import train_bpe
from jattn.evaluation import evaluate
from jattn.interop import gpt2
from jattn.interop.command import write
from jattn.training import setup
from jattn.training.init_from import initial_weights
from jattn.training.run import check_files, read_config
from tests import runs
from tests.interop.made import gpt2_logits, gpt2_tensors, vit_tensors
from tests.interop.test_foreign import save

TEXT = "".join(f"line {n} of a text\n" for n in range(40))
BYTES = gpt2_tensors(vocab=256)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JATTN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    save(folder / "gpt2", BYTES, n_head=3)
    (folder / "text.txt").write_text(TEXT)
    options = ["--set", f"data.path={folder / 'text.txt'}", "--set", "data.tokenizer=bytes"]
    assert main(["import", "gpt2", str(folder / "gpt2"), "--out", str(folder / "run"), *options]) == 0
    return folder / "run"


def test_it_is_evaluated_as_a_run(imported):
    found = evaluate(imported)["measures"]
    dataset = setup.build(read_config(imported)).dataset
    tokens = dataset.tokens("test").astype(int)
    losses = []
    for start in range(0, len(tokens) - 1, 11):
        logits = gpt2_logits(BYTES, tokens[start : min(start + 11, len(tokens) - 1)], 3)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        losses += [-row[token] for row, token in zip(logs, tokens[start + 1 : start + 12], strict=True)]
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_tokenizer_beside_the_weights_goes_with_them(tmp_path):
    tokenizer = train_bpe(iter([TEXT]), 300)
    (tmp_path / "text.txt").write_text(20 * TEXT)
    save(tmp_path / "gpt2", gpt2_tensors(vocab=tokenizer.vocab_size), n_head=3)
    (tmp_path / "gpt2" / "tokenizer.json").write_text(tokenizer.to_json())
    config = write(gpt2.read(tmp_path / "gpt2"), tmp_path / "run", [f"data.path={tmp_path / 'text.txt'}"])
    dataset = data.build(config.data)
    assert dataset.vocab_size == tokenizer.vocab_size
    assert config.data.tokenizer == str(tmp_path / "run" / "tokenizer.json")
    check_files(tmp_path / "run", dataset.kept())
    save(tmp_path / "gpt2", gpt2_tensors(vocab=19), n_head=3)
    smaller = gpt2.read(tmp_path / "gpt2")
    assert smaller.files == {}
    assert f"has {tokenizer.vocab_size} tokens, the model 19: it is left out" in smaller.notes[0]


def test_another_mechanism_is_put_into_a_layer(imported, tmp_path):
    config = runs.get_config("finetune", str(imported))
    config.model.layers = "1:neural(projection_dim=2)"
    report = "\n".join(initial_weights(setup.build(config), tmp_path, restart=False).report())
    assert "init_from, new: block_1/attention/" in report
    assert "kept: block_0, block_1/attention/" in report


def test_a_vit_by_the_name_of_the_package_and_what_is_printed(tmp_path, monkeypatch, capsys):
    file = save(tmp_path / "vit", vit_tensors(), name="weights.safetensors") / "weights.safetensors"
    out = str(tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["jattn", "import", "vit", str(file), "--num-heads", "3", "--out", out])
    with pytest.raises(SystemExit) as finished:
        runpy.run_module("jattn.interop", run_name="__main__")
    assert finished.value.code == 0
    printed = capsys.readouterr().out
    assert "width 12, depth 2, 3 heads" in printed
    assert f"--config=configs/finetune.py:{out}" in printed
    assert read_config(tmp_path / "run").model.pooling == "class_token"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "gone does not exist: give a .safetensors file"),
        (["{model}", "--out", "{model}"], "is there already: name another one with --out"),
        (["{model}", "--set", "model.depth=1"], "--set model.depth=1: write data.NAME=VALUE"),
        (["{model}", "--set", "data.nam=x"], "unknown config option 'data.nam': did you mean 'data.name'"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model", BYTES, n_head=3)
    assert main(["import", "gpt2", *(word.format(model="model") for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
