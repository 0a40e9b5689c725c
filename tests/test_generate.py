"""`python -m jattn generate` on a finished run, and on what is none."""

import contextlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.__main__ import main
from jattn.config import DataConfig
from jattn.data.text.kept import kept_text
from jattn.data.text.subwords import train_bpe
from jattn.data.text.tokenizers import Bytes
from jattn.generation import Sampling, generate
from jattn.training import setup
from jattn.training.checkpoint import Checkpoints
from jattn.training.run import open_run
from jattn.training.step import root_key
from jattn.training.trained import open_trained
from tests import runs

OPTIONS = ["--temperature=0.9", "--top_k=0.5", "--top_p=0.95", "--seed=3", "--max_tokens=20"]
SAMPLING = Sampling(0.9, 0.5, 0.95)
PROMPTS = ["The import statement – ", "def"]


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    return runs.smoke_run(tmp_path_factory, "python_docs_lm")


@pytest.fixture(scope="module")
def expected(docs):
    """Three texts of each prompt, by the library: what follows the prompts."""
    model = open_trained(docs, "newest")
    keys = [jax.random.fold_in(jax.random.fold_in(root_key(3), i), sample) for i in range(2) for sample in range(3)]
    tokens = [list(prompt.encode()) for prompt in PROMPTS for _ in range(3)]
    texts = generate(model.experiment.model, model.params, tokens, jnp.stack(keys), max_tokens=20, sampling=SAMPLING)
    # The first prompt of 25 bytes leaves room for 7 more.
    assert [len(text) for text in texts] == [7, 7, 7, 20, 20, 20]
    return [Bytes().decode(np.concatenate(pair)) for pair in zip(tokens, texts, strict=True)]


def test_a_file_of_prompts_gives_all_texts(docs, expected, tmp_path, capsys):
    (tmp_path / "prompts").write_text("\n\n".join(PROMPTS) + "\n", encoding="utf-8")
    options = [f"--prompt_file={tmp_path / 'prompts'}", "--num_samples=3", "--checkpoint=newest"]
    assert main(["generate", f"--workdir={docs}", *options, *OPTIONS]) == 0
    output, said = capsys.readouterr()
    marks = [f"=== text {n} of 6 ===\n" for n in range(1, 7)]
    assert output == "\n".join(mark + text + "\n" for mark, text in zip(marks, expected, strict=True))
    assert len(set(expected)) == 6
    assert "3 of the texts ended where the model's context of 32 tokens does" in said
    assert "81 tokens in " in said


def test_a_stream_is_the_same_text(docs, expected, capsys, monkeypatch):
    pieces = []
    monkeypatch.setattr("jattn.generate._show", pieces.append)
    options = [f"--prompt={PROMPTS[0]}", "--stream", "--checkpoint=newest"]
    assert main(["generate", f"--workdir={docs}", *options, *OPTIONS]) == 0
    assert "".join(pieces) == expected[0]
    assert len(pieces) == 1 + 7  # the prompt, and the text after each token
    assert "the text ended where" in capsys.readouterr().err


def one_sentence(capsys, *argv):
    assert main(["generate", *argv]) == 2
    output, said = capsys.readouterr()
    assert output == ""
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give either --prompt or --prompt_file"),
        (["--prompt=a", "--prompt_file=b"], "give either --prompt or --prompt_file"),
        (["--prompt_file=nowhere.txt"], "--prompt_file=nowhere.txt cannot be read (No such file"),
        (["--prompt="], "the prompt is empty"),
        (["--prompt=\udcff"], "--prompt is no UTF-8"),
        ([f"--prompt={'x' * 40}"], "the prompt has 40 tokens and the model's context 32"),
        (["--prompt=a", "--top_p=2"], "top_p=2.0 is a probability"),
        (["--prompt=a", "--num_samples=0"], "--num_samples=0 must be at least 1"),
        (["--prompt=a", "--checkpoint=last"], "--checkpoint=last: choose best, newest"),
        (["--prompt=a", "--checkpoint=7"], "no checkpoint 7"),
    ],
)
def test_mistakes(docs, capsys, options, says):
    assert says in one_sentence(capsys, f"--workdir={docs}", *options)


def test_runs_that_write_no_text(docs, tmp_path_factory, tmp_path, capsys):
    digits, mqar = (runs.smoke_run(tmp_path_factory, name) for name in ("digits_vit", "mqar_lm"))
    capsys.readouterr()
    assert "run of a vision_transformer" in one_sentence(capsys, f"--workdir={digits}", "--prompt=a")
    said = one_sentence(capsys, f"--workdir={mqar}", "--prompt=a")
    assert "was trained on data set mqar, whose tokens are no text" in said
    assert "does not exist: train first" in one_sentence(capsys, f"--workdir={tmp_path / 'none'}", "--prompt=a")
    shutil.copy(docs / "config.json", tmp_path)
    assert "holds no checkpoint: train first" in one_sentence(capsys, f"--workdir={tmp_path}", "--prompt=a")


def untrained(folder, config, **files):
    """A run of one layer that has not made a step."""
    config.model.depth = 1
    with open_run(folder, config, restart=False, allow_config_change=False):
        for name, text in files.items():
            (folder / f"{name}.json").write_text(text)
    experiment = setup.build(config, kept_text(config.data, folder))
    with contextlib.closing(Checkpoints(folder / "checkpoints", config.checkpoint, warn=pytest.fail)) as checkpoints:
        checkpoints.save(0, experiment.parallel.init_state(), {}, None)


def test_a_run_needs_its_tokenizer_and_no_text(tmp_path, capsys):
    config = runs.get_config("python_docs_lm", "smoke")
    config.data = DataConfig("text", "folder", "/nowhere", "bpe(vocab_size=300)", options="sequence_length=12")
    tokenizer = train_bpe(iter(["the river over the city"] * 3), 300)
    untrained(tmp_path / "run", config, tokenizer=tokenizer.to_json())
    options = ["--prompt=the 東京", "--max_tokens=3", "--checkpoint=newest"]
    assert main(["generate", f"--workdir={tmp_path / 'run'}", *options]) == 0
    output = capsys.readouterr().out
    assert output.startswith("the 東京")
    assert len(output) > len("the 東京\n")
