"""Every mistake a user can make is one sentence, exit code 2, and nothing is written: through the real scripts."""

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jattn import cli, config_json
from jattn.config import Config
from jattn.errors import UserError
from tests import commands, runs

DIGITS = "--config=configs/digits_vit.py:smoke"
DOCS = "--config=configs/python_docs_lm.py:smoke"

# Name of the case, flags of train.py (--workdir is added), what the sentence must contain.
TRAIN_ERRORS = {
    "unknown field": ([DIGITS, "--config.model.widht=8"], ["'model.widht'", "did you mean 'model.width'"]),
    "wrong type": ([DIGITS, "--config.model.width=wide"], ["config.model.width must be int, not 'wide'"]),
    "unknown flag": ([DIGITS, "--restrat"], ["unknown flag '--restrat'", "did you mean '--restart'"]),
    "no config file": (["--config=configs/digit.py"], ["'configs/digit.py'", "configs/digits_vit.py"]),
    "unknown argument": (["--config=configs/digits_vit.py:smok"], ["'smok'", "did you mean 'smoke'"]),
    "mechanism": ([DIGITS, "--config.model.attention.name=sofmax"], ["mechanism 'sofmax'", "did you mean 'softmax'"]),
    "data set": ([DIGITS, "--config.data.name=digit"], ["data set 'digit'", "did you mean 'digits'"]),
    "model": ([DIGITS, "--config.model.name=vit"], ["model 'vit'", "vision_transformer"]),
    "optimizer": ([DIGITS, "--config.optim.name=adamwe"], ["optimizer 'adamwe'", "did you mean 'adamw'"]),
    "heads": ([DIGITS, "--config.model.num_heads=3"], ["num_heads 3", "width 16"]),
    "patch": ([DIGITS, "--config.model.patch_size=3"], ["patch", "3", "8"]),
    "devices": ([DIGITS, "--config.data.batch_size=15"], ["data.batch_size=15", "2 devices", "multiple of 2"]),
    "model's context": ([DOCS, "--config.model.max_length=8"], ["max_length 8", "32 tokens"]),
    "corpus": ([DOCS, "--config.data.options=sequence_length=99999"], ["sequence_length=99999", "18875 tokens"]),
    "layer index": ([DIGITS, "--config.model.layers=1:softmax"], ["layer 1", "layers 0 to 0"]),
    "length": ([DIGITS, "--config.epochs=2"], ["steps=12 and epochs=2.0", "exactly one"]),
    "best metric": ([DIGITS, "--config.checkpoint.best_metric=valid/los"], ["did you mean 'valid/loss'"]),
}  # fmt: skip

TWO_DEVICES = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {commands.QUICK_TO_COMPILE}"}


def one_sentence(process):
    """The error of a process that a user's mistake has ended."""
    assert process.returncode == 2, process.stderr
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1, process.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in process.stdout
    return lines[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return commands.compiled_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    return runs.smoke_run(tmp_path_factory, "digits_vit")


@pytest.fixture(scope="module")
def prepared(base, finished_run):
    """Folders in the states that errors need, and the command of each case: name -> (folder, argv)."""
    folders = {name: base / name.replace(" ", "_") for name in (
        "another config", "no checkpoint", "all damaged", "other shape", "other shape continued", "in use",
    )}  # fmt: skip
    for folder in folders.values():
        shutil.copytree(finished_run, folder)
    shutil.rmtree(folders["no checkpoint"] / "checkpoints")
    for step in (folders["all damaged"] / "checkpoints").iterdir():
        (step / "info" / "metadata").write_text("{}")
    wider = json.loads((finished_run / "config.json").read_text())
    wider["model"]["width"] = 32
    (folders["other shape"] / "config.json").write_text(json.dumps(wider))
    (base / "file").write_text("not a folder")
    (base / "foreign").mkdir()
    (base / "foreign" / "thesis.tex").write_text("precious")
    at = {name: f"--workdir={folder}" for name, folder in folders.items()}
    return {
        "another config": ["train.py", DIGITS, "--config.optim.learning_rate=0.5", at["another config"]],
        "no checkpoint": ["eval.py", at["no checkpoint"]],
        "all damaged": ["eval.py", at["all damaged"]],
        "all damaged, training": ["train.py", DIGITS, at["all damaged"]],
        "other shape": ["eval.py", at["other shape"]],
        "other shape continued": [
            "train.py", DIGITS, "--config.model.width=32", "--allow_config_change", at["other shape continued"],
        ],
        "no run": ["eval.py", f"--workdir={base / 'nowhere'}"],
        "no run in the folder": ["eval.py", f"--workdir={base / 'foreign'}"],
        "foreign folder": ["train.py", DIGITS, f"--workdir={base / 'foreign'}"],
        "unwritable": ["train.py", DIGITS, f"--workdir={base / 'file' / 'run'}"],
        "in use": ["train.py", DIGITS, at["in use"]],
        "no such split": ["eval.py", at["another config"], "--split=tests"],
        "no such step": ["eval.py", at["another config"], "--checkpoint=7"],
    }  # fmt: skip


FOLDER_ERRORS = {
    "another config": ["optim.learning_rate: 0.01 -> 0.5", "--restart", "--allow_config_change"],
    "no checkpoint": ["holds no checkpoint"],
    "all damaged": ["damaged", "info/metadata does not have the checksum"],
    "all damaged, training": ["damaged", "info/metadata does not have the checksum", "--restart"],
    "other shape": ["does not fit", "(16,", "in the checkpoint and (32,"],
    "other shape continued": ["does not fit", "(16,", "in the checkpoint and (32,"],
    "no run": ["does not exist"],
    "no run in the folder": ["holds no run"],
    "foreign folder": ["thesis.tex"],
    "unwritable": ["cannot write to", "choose another --workdir"],
    "in use": ["another process is training"],
    "no such split": ["unknown split 'tests'", "did you mean 'test'"],
    "no such step": ["no checkpoint 7", "6, 12"],
}


def snapshot(folder):
    """Every file below a folder with its content; log.txt may grow and locks may appear."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "log.txt"))
    return {path: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def evaluated(finished_run, tmp_path_factory):
    """A run that is evaluated between mistakes; where it lies, files may appear."""
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("evaluated") / "run")


@pytest.fixture(scope="module")
def processes(base, cache, prepared, evaluated):
    """All commands; before and after, what lies in the folders of mistakes: (results, before, after)."""
    work = {name: ["train.py", *flags, f"--workdir={base / 'new'}"] for name, (flags, _) in TRAIN_ERRORS.items()}
    work |= prepared | {"no mistake": ["eval.py", f"--workdir={evaluated}"]}
    before = snapshot(base)
    with (base / "in_use" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = commands.run_all(cache, list(work.values()), **TWO_DEVICES)
    return dict(zip(work, found, strict=True)), before, snapshot(base)


@pytest.mark.parametrize("name", TRAIN_ERRORS)
def test_a_wrong_command(name, processes):
    error = one_sentence(processes[0][name])
    for part in TRAIN_ERRORS[name][1]:
        assert part in error


@pytest.mark.parametrize("name", FOLDER_ERRORS)
def test_a_wrong_folder(name, processes):
    error = one_sentence(processes[0][name])
    for part in FOLDER_ERRORS[name]:
        assert part in error


def test_nothing_was_written_or_lost(processes, base):
    _, before, after = processes
    assert after == before
    assert not (base / "new").exists()
    assert (base / "file").read_text() == "not a folder"


def test_help_shows_examples_and_our_flags_only(base):
    for script, flags in (
        ("train.py", {"config", "workdir", "restart", "allow_config_change", "distributed"}),
        (
            "eval.py",
            {"workdir", "split", "checkpoint", "window", "stride", "average", "bins", "timed_batches", "pictures"},
        ),
    ):
        process = commands.run(base, script, "--help")
        assert process.returncode == 0
        assert f"python {script} --" in process.stdout
        table = process.stdout.split("Flags:\n")[1]
        assert {line.split()[0].removeprefix("--") for line in table.splitlines()} == flags


def test_steps_that_stay_not_finite_end_with_exit_code_3(tmp_path, capsys):
    training = [
        "train.py", DIGITS, f"--workdir={tmp_path / 'run'}", "--config.optim.name=sgd",
        "--config.optim.learning_rate=1e38", "--config.optim.clip_norm=None",
        "--config.max_nonfinite_steps=3", "--config.checkpoint.every=1", "--config.steps=40",
    ]  # fmt: skip
    assert cli.train_main(training) == 3
    output, errors = capsys.readouterr()
    assert "3 steps in a row were not finite" in errors
    assert "Traceback" not in errors
    assert output.count("has been left out: batch ") == 3
    assert "the gradient of " in output
    assert cli.eval_main(["eval.py", f"--workdir={tmp_path / 'run'}", "--checkpoint=newest"]) == 0


def test_the_user_s_path(processes, evaluated):
    """Evaluation of a run prints a table and writes results.json."""
    process = processes[0]["no mistake"]
    assert process.returncode == 0, process.stderr
    results = json.loads((evaluated / "results.json").read_text())
    assert f"{results['measures']['loss']:.4f}" in process.stdout
    assert "accuracy" in process.stdout


def test_ctrl_c_ends_with_exit_code_130(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse_train", interrupted)
    assert cli.train_main(["train.py"]) == 130
    assert capsys.readouterr().err == ""


def test_commands_end_quietly_with_ctrl_c_and_where_nobody_reads_on():
    code = "import sys; from jattn import cli\ndef run():\n    {}\nsys.exit(cli.exit_code(run))"
    for run, number in (("raise KeyboardInterrupt", 130), ("return print('much' * 100_000) or 0", 141)):
        process = subprocess.Popen(
            [sys.executable, "-c", code.format(run)], cwd=commands.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        process.stdout.read(4)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == number


def parse(*argv):
    return cli.parse_train(["train.py", *argv])


def test_values_are_of_the_options_types():
    config = parse(
        DIGITS, "--config.model.width=32", "--config.optim.learning_rate=1", "--noconfig.data.augment",
        "--config.model.mlp_dim", "48", "--config.data.options=max_shift=2", "--config.logging.tensorboard",
    ).config  # fmt: skip
    assert config.model.width == 32
    assert type(config.optim.learning_rate) is float
    assert config.data.augment is False
    assert config.model.mlp_dim == 48
    assert config.data.options == "max_shift=2"
    assert config.logging.tensorboard is True


def test_none_unsets_and_the_last_value_counts():
    assert parse(DIGITS, "--config.steps=None", "--config.epochs=2").config.steps is None
    assert parse(DIGITS, "--config.steps=None", "--config.steps=3").config.steps == 3
    assert parse(DIGITS, "--config.steps=3", "--config.steps=none").config.steps is None
    with pytest.raises(UserError, match=r"config\.seed must be int, not 'None'"):
        parse(DIGITS, "--config.seed=None")


def test_flags_may_come_in_any_order():
    command = parse("--config.seed=4", "--restart", "--workdir=x", "--config", "configs/digits_vit.py:smoke")
    assert (command.config.seed, command.restart, command.workdir) == (4, True, Path("x"))
    assert not command.allow_config_change


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], r"--config is missing.*--config=configs/"),
        (["--config"], "--config is missing"),
        ([DIGITS, "--config.model=3"], r"config\.model is a group of options: set one of model\.name, "),
        ([DIGITS, "--config.width=3"], r"'width'.*did you mean 'model\.width'"),
        ([DIGITS, "--config.model.width.x=3"], r"model\.width"),
        ([DIGITS, "--config.model.width"], r"config\.model\.width lacks a value"),
        ([DIGITS, "--config.data.augment=perhaps"], r"config\.data\.augment must be bool, not 'perhaps'"),
        ([DIGITS, "--config.model.mlp_dim=1.5"], r"config\.model\.mlp_dim must be int or None, not '1\.5'"),
        ([DIGITS, "more"], "unexpected argument 'more'"),
        ([DIGITS, "--workdir"], "Missing value"),
        ([DIGITS, "--restart=perhaps"], "restart"),
    ],
)
def test_wrong_command_lines(argv, says):
    with pytest.raises(UserError, match=says) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import nonsense_module", "ModuleNotFoundError.*nonsense_module"),
        ("def get_config(:", "SyntaxError"),
        ("x = 1", "get_config"),
        ("def get_config(arg=''): return {}", "must return a jattn.config.Config, not dict"),
        ("def get_config(arg=''): return undefined", r"NameError.*broken\.py:1"),
        ("def get_config(arg=''): return int('x')", r"ValueError.*broken\.py:1"),
    ],
)
def test_broken_config_files(code, says, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # where ml_collections loads config files
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(UserError, match=says) as caught:
        parse(f"--config={tmp_path / 'broken.py'}")
    assert "\n" not in str(caught.value)


def test_the_default_folder_is_named_after_config_and_argument():
    assert parse("--config=configs/digits_vit.py").workdir == Path("runs/digits_vit")
    assert parse(DIGITS).workdir == Path("runs/digits_vit-smoke")
    assert cli.default_workdir("a/x.py:width=3,deep/4") == Path("runs/x-width=3,deep_4")


def test_mistakes_in_flags_do_not_wait_for_jax():
    code = "import sys; from jattn import cli; cli.train_main(['train.py', '--confg']); assert 'jax' not in sys.modules"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=commands.ROOT, capture_output=True, text=True, check=True
    )
    assert process.stderr.startswith("error: ")


def test_config_survives_json():
    config = parse(DIGITS, "--config.optim.learning_rate=0.1", "--config.optim.ema_decay=0.3").config
    assert config_json.from_json(config_json.to_json(config)) == config
    assert config_json.from_json("{}") == Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ('{"sede": 3}', "unknown option in config.json 'sede': did you mean 'seed'"),
        ('{"model": {"width": "3"}}', "model.width must be int, not '3'"),
        ('{"model": 3}', "model must be an object, not 3"),
        ('{"seed": true}', "seed must be int, not True"),
        ('{"data": {"augment": 1}}', "data.augment must be bool, not 1"),
    ],
)
def test_a_damaged_config_json(text, says):
    with pytest.raises(UserError, match=says):
        config_json.from_json(text)


def test_differences_are_named_as_on_the_command_line():
    new = Config(seed=1)
    new.optim.ema_decay = 0.5
    assert config_json.differences(Config(), new) == ["seed: 0 -> 1", "optim.ema_decay: None -> 0.5"]
    assert config_json.differences(new, new) == []
    assert config_json.config_hash(new) != config_json.config_hash(Config())
