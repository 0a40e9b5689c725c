"""Recorded cases of the released codes hold; and `verify` says so when one does not."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from jattn.__main__ import main
from jattn.errors import UserError
from jattn.interop.original import dump, load
from jattn.verify import check, read

FOLDERS = [Path(__file__).parents[1] / "golden", *map(Path, filter(None, [os.environ.get("JATTN_GOLDEN")]))]
PATHS = {path.name: path for folder in FOLDERS for path in sorted(folder.glob("*.npz"))}
CASE = FOLDERS[0] / "mha_h3_mask.npz"


@functools.cache
def first_of_classes():
    """The name of one case of each released class."""
    found = {}
    for name, path in PATHS.items():
        recorded = read(path)
        found.setdefault((recorded.mechanism, recorded.settings["cls"]), name)
    return set(found.values())


@pytest.mark.parametrize("name", PATHS)
def test_recorded_case(name):
    """By default; the first case of a class through every implementation. That these agree, whatever the options, is
    checked for each mechanism by its contract (`tests/attention/test_mechanisms.py`)."""
    recorded = read(PATHS[name])
    results = list(check(recorded, by_name=name in first_of_classes()))
    assert results
    assert all(result.holds for result in results), results


@pytest.mark.parametrize("name", [path.name for path in sorted(FOLDERS[0].glob("*.npz")) if "_opt_" not in path.name])
def test_dumped_parameters_are_those_that_were_loaded(name):
    recorded = read(PATHS[name])
    params = recorded.group("param")
    _, variables = load(recorded.mechanism, recorded.settings, params)
    shapes = {name: value.shape for name, value in params.items()}
    found = jax.device_get(dump(recorded.mechanism, recorded.settings, variables, shapes))
    used = {name for name, value in found.items() if np.any(value)}
    assert used or not params
    for name in used:
        np.testing.assert_array_equal(found[name], params[name], err_msg=name)
    # What our module has no use for has no influence in the released code either.
    gradients = recorded.group("grad")
    for name in set(params) - used:
        assert not np.any(gradients.get(name, 0)) or not np.any(params[name]), name


def copied(folder, change):
    """A folder with one case, changed."""
    with np.load(CASE) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(folder / "case.npz", **arrays)
    return folder


def test_a_case_that_holds_is_a_line_for_every_implementation(tmp_path, capsys):
    copied(tmp_path, lambda arrays: None)
    assert main(["verify", str(tmp_path)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["ok", "case.npz", name] for name in ("default", "blockwise", "dense")
    ]
    assert all("output" in line and "gradient" in line for line in lines)
    assert last == "1 of 1 cases hold, in 3 checks"


@pytest.mark.parametrize(
    ("array", "says"),
    [("out", "(out)"), ("grad/W_k.weight", "(W_k.weight)"), ("grad/x", "(x)"), ("in/x", "(out)")],
)
def test_a_wrong_number_is_found_and_named(tmp_path, capsys, array, says):
    def change(arrays):
        arrays[array] = arrays[array].copy()
        arrays[array].flat[7] += 3e-3

    assert main(["verify", str(copied(tmp_path, change))]) == 1
    out = capsys.readouterr().out
    assert f"{says}" in out.splitlines()[0]
    assert out.splitlines()[0].startswith("FAILED case.npz default")
    assert out.splitlines()[-2:] == ["0 of 1 cases hold, in 3 checks", "failed: case.npz"]


def test_a_number_that_is_none_fails(tmp_path):
    def change(arrays):
        arrays["out"] = np.where(np.arange(arrays["out"].size).reshape(arrays["out"].shape) == 3, np.nan, arrays["out"])

    assert main(["verify", str(copied(tmp_path, change))]) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mechanism": "multihed_attention"}, "unknown mechanism of a released code 'multihed_attention': did you"),
        ({"settings": {"cls": "MHA"}}, "unknown class of multihead_attention 'MHA'"),
        ({"settings": {"cls": "MultiHeadAttention"}}, "MultiHeadAttention needs 'num_heads'"),
    ],
)
def test_a_case_that_cannot_be_built_fails(tmp_path, capsys, change, says):
    def replace(arrays):
        arrays["meta"] = np.array(json.dumps(json.loads(str(arrays["meta"])) | change))

    assert main(["verify", str(copied(tmp_path, replace))]) == 1
    assert says in capsys.readouterr().out


def test_a_file_that_is_no_case_fails(tmp_path, capsys):
    (tmp_path / "case.npz").write_bytes(CASE.read_bytes()[:1000])
    assert main(["verify", str(tmp_path)]) == 1
    assert "is no recorded case" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["nowhere"], "there is no folder 'nowhere'"), ([".", "--only=x"], "no case that matches 'x'")],
)
def test_nothing_to_verify_is_a_mistake(arguments, says, capsys):
    assert main(["verify", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_parameters_of_another_class_are_refused():
    recorded = read(CASE)
    module, variables = load(recorded.mechanism, recorded.settings, recorded.group("param"))
    with pytest.raises(UserError, match="are not those of MultiHeadAttention"):
        dump(recorded.mechanism, recorded.settings, variables, {f"W_{name}.weight": (30, 30) for name in "qkvo"})
    assert dataclasses.is_dataclass(module)
    assert set(jax.tree.leaves(jax.tree.map(lambda leaf: leaf.dtype, variables))) == {np.dtype("float32")}
