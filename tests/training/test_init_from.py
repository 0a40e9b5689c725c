"""Beginning with the weights of another run: what is kept, what is new, what is refused before anything is written."""

import shutil

import jax
import numpy as np
import pytest

from jattn.cli import parse_train
from jattn.config import AttentionConfig
from jattn.errors import UserError
from jattn.optim.parameters import path_name
from jattn.training import setup, train
from jattn.training.checkpoint import Checkpoints
from jattn.training.init_from import collapsed, initial_weights
from tests import runs
from tests.commands import ROOT

pytestmark = pytest.mark.usefixtures("experiments_are_kept")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return runs.smoke_run(tmp_path_factory, "digits_vit")


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    return runs.smoke_run(tmp_path_factory, "python_docs_lm")


def finetune(folder, **model):
    config = runs.get_config("finetune", str(folder))
    config.steps, config.epochs = 1, None
    config.logging.tensorboard = False
    for name, value in model.items():
        setattr(config.model, name, value)
    return config


def flat(tree):
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def stored(folder, name="digits_vit"):
    """The parameters of the best checkpoint, read with all of the state."""
    experiment = setup.build(runs.get_config(name, "smoke"))
    checkpoints = Checkpoints(folder / "checkpoints", experiment.config.checkpoint, warn=pytest.fail, read_only=True)
    return flat(checkpoints.restore(experiment.parallel.abstract_state, "best")[0].params)


def taken(config, workdir):
    """What the run takes from the other one."""
    return initial_weights(setup.build(config), workdir, restart=False)


def begun(config, workdir):
    """That, and the run's state before the first step."""
    weights = taken(config, workdir)
    return weights, weights.put_into(setup.build(config).parallel.init_state())


def test_the_same_model_begins_with_the_best_weights_and_so_does_its_average(digits, tmp_path):
    config = finetune(digits)
    config.optim.ema_decay = 0.9
    weights, state = begun(config, tmp_path)
    expected = stored(digits)
    for tree in (state.params, state.ema):
        found = flat(tree)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.ema))]
    assert len(set(pointers)) == len(pointers)
    assert weights.report()[2:] == ["init_from, new: nothing", "init_from, left out: nothing"]


def test_another_mechanism_in_a_layer_keeps_what_both_have(digits, tmp_path):
    config = finetune(digits, layers="0:neural(projection_dim=4)")
    weights, state = begun(config, tmp_path)
    found, expected = flat(state.params), stored(digits)
    fresh = flat(setup.build(config).parallel.init_state().params)
    new = {name for name in found if name not in expected or found[name].shape != expected[name].shape}
    assert new
    assert all(name.startswith("block_0/attention/") for name in new)
    for name, array in found.items():
        np.testing.assert_array_equal(array, (fresh if name in new else expected)[name], err_msg=name)
    report = "\n".join(weights.report())
    assert "init_from, new: block_0/attention/" in report
    assert "block_0/mlp" in report.split("kept: ")[1].split("\n")[0]


def test_more_layers_and_an_output_layer_of_another_size_are_new(digits, tmp_path):
    weights = taken(finetune(digits, depth=2, head_hidden_dim=5), tmp_path)
    assert weights.report()[2:] == [
        "init_from, new: block_1, head",
        "init_from, left out: head",
    ]


def test_training_begins_there_and_goes_on_without_the_other_run(digits, tmp_path, capsys):
    source = shutil.copytree(digits, tmp_path / "source")
    config = finetune(source)
    train(config, tmp_path / "run")
    text = (tmp_path / "run" / "log.txt").read_text()
    assert f"parameters) of {source.absolute()}, step" in text
    shutil.rmtree(source)
    train(config, tmp_path / "run")
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"init_from=.*source.* does not exist"):
        train(config, tmp_path / "run", restart=True)


def test_what_does_not_fit_is_listed_and_nothing_is_written(digits, docs, tmp_path):
    for source, model, message in (
        (digits, {"width": 18}, r"key/bias is \(2, 8\) there and \(2, 9\) here.* 17 more: set .*model\.width is 16"),
        (digits, {"mlp_dim": 9}, r"mlp/hidden/kernel is \(16, 64\) there and \(16, 9\) here.*model\.mlp_dim is None"),
        (tmp_path / "gone", {}, r"init_from=.*gone: .*does not exist"),
    ):
        config = finetune(digits, **model)
        config.init_from = str(source)
        with pytest.raises(UserError, match=message):
            train(config, tmp_path / "run")
    config = finetune(docs, attention=AttentionConfig("softmax", "num_key_heads=1"))
    assert "block_0/attention/key" in "\n".join(taken(config, tmp_path).report())
    assert not (tmp_path / "run").exists()


def test_tokens_of_another_vocabulary_are_refused(docs, tmp_path, monkeypatch):
    source = shutil.copytree(docs, tmp_path / "source")
    (source / "tokenizer.json").write_text("one vocabulary")
    experiment = setup.build(finetune(source))
    monkeypatch.setattr(type(experiment.dataset), "kept", lambda self: {"tokenizer.json": "another one"})
    with pytest.raises(UserError, match=r"set data\.tokenizer=.*source/tokenizer\.json"):
        initial_weights(experiment, tmp_path / "run", restart=False)


def test_finetune_needs_the_folder_of_a_run(tmp_path):
    for argument, message in (("", "takes the folder of a run"), (str(tmp_path), "holds no run")):
        with pytest.raises(UserError, match=message):
            runs.get_config("finetune", argument)
    with pytest.raises(UserError, match=r"gone does not exist: train first"):
        parse_train(["train.py", f"--config={ROOT / 'configs' / 'finetune.py'}:{tmp_path / 'gone'}"])


def test_paths_in_short():
    everything = ["a/x/kernel", "a/x/bias", "a/y/kernel", "b/kernel", "c"]
    assert collapsed(everything[:2], everything) == ["a/x"]
    assert collapsed(everything[:3], everything) == ["a"]
    assert collapsed(["a/x/bias", "c"], everything) == ["a/x/bias", "c"]
    assert collapsed([], everything) == []
