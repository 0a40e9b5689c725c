"""The cells of a comparison: values as they are typed, and configs that differ in nothing else."""

import jax
import numpy as np
import pytest

from jattn import config_json
from jattn.compare.grid import Axis, Cell, cells, parse_axis
from jattn.config import Config
from jattn.errors import UserError
from jattn.optim.parameters import path_name
from jattn.training import setup

SMOKE = "configs/digits_vit.py:smoke"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("model.width=64,128", ("64", "128")),
        ("--config.model.width= 64 , 128", ("64", "128")),
        ("arg=softmax", ("softmax",)),
        ("arg=,keras", ("", "keras")),
        ("arg=super,keras;softmax,keras", ("super,keras", "softmax,keras")),
        ("arg=super,keras;", ("super,keras",)),
        ("model.attention.name=kvt(topk=8),sparse(mode='a,b;c')", ("kvt(topk=8)", "sparse(mode='a,b;c')")),
        ("model.pattern=local(window_size=4),softmax; softmax", ("local(window_size=4),softmax", "softmax")),
    ],
)  # fmt: skip
def test_values_of_an_axis(text, values):
    assert parse_axis(text).values == values


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model.width", "write NAME=VALUE"),
        ("=3", "write NAME=VALUE"),
        ("model.width=", "write NAME=VALUE"),
        ("model.width=3,4,3", "'3' twice"),
        ("seed=1,2", "--seeds"),
    ],
)
def test_what_is_no_axis(text, says):
    with pytest.raises(UserError, match=says):
        parse_axis(text)


def changed(made):
    return [config_json.differences(made[0].config, cell.config) for cell in made]


def test_cells_differ_in_their_axes_only():
    axes = [parse_axis("model.attention.name=softmax,kvt(topk=8)"), parse_axis("model.width=16,32")]
    made = cells(SMOKE, axes, ["--config.steps=7"])
    assert [cell.name for cell in made] == [
        "attention=softmax, width=16", "attention=softmax, width=32",
        "attention=kvt(topk=8), width=16", "attention=kvt(topk=8), width=32",
    ]  # fmt: skip
    mechanism = ["model.attention.name: 'softmax' -> 'kvt'", "model.attention.options: '' -> 'topk=8'"]
    assert changed(made) == [[], ["model.width: 16 -> 32"], mechanism, ["model.width: 16 -> 32", *mechanism]]
    assert {cell.config.steps for cell in made} == {7}
    assert made[2].folder == "attention=kvt_topk=8_width=16"


def test_the_argument_of_the_config_is_an_axis():
    made = cells(SMOKE, [parse_axis("arg=softmax,kvt")], [])
    assert [cell.argument for cell in made] == [
        "configs/digits_vit.py:smoke,softmax",
        "configs/digits_vit.py:smoke,kvt",
    ]
    assert [cell.name for cell in made] == ["softmax", "kvt"]
    assert changed(made)[1] == ["model.attention.name: 'softmax' -> 'kvt'", "model.attention.options: '' -> 'topk=8'"]


def test_options_of_the_config_stay_with_its_own_mechanism():
    made = cells("configs/digits_vit.py:kvt", [parse_axis("model.attention.name=kvt,softmax,kvt(topk=3)")], [])
    assert [cell.config.model.attention.options for cell in made] == ["topk=8", "", "topk=3"]


def test_a_long_value_has_a_short_folder():
    patterns = [", ".join([*["local(window_size=4)"] * 40, last]) for last in ("softmax", "kvt")]
    folders = {Cell(name, {}, "", (), Config()).folder for name in patterns}
    assert len(folders) == 2
    assert all(len(name) < 140 and name.startswith("local_window_size=4_local") for name in folders)


def test_without_axes_there_is_one_cell():
    (cell,) = cells(SMOKE, [], [])
    assert (cell.name, cell.folder, cell.settings) == ("digits_vit-smoke", "digits_vit-smoke", {})


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        (["model.atention.name=softmax,neural"], "did you mean 'model.attention.name'"),
        (["model.width=16,wide"], r"config\.model\.width must be int, not 'wide'"),
        (["arg=smok,softmax"], "'smok'"),
        (["model.width=16", "model.width=32"], "model.width occurs twice"),
        (["model.attention.name=softmax,kvt(8)"], r"'8' in 'kvt\(8\)' has no name"),
        (["data.name=digits,mqar"], r"differ in data\.name \('digits' and 'mqar'\), so their results do not compare"),
        (["data.options='max_shift=1';'max_shift=2'"], r"differ in data\.options"),
        (["validation.split=valid,test"], r"differ in validation\.split"),
        (["model.attention.name=softmax,softmax()"], r"'softmax' and 'softmax\(\)' are the same config"),
        (["model.layers=0:local(window_size=4);0_local(window_size=4)"], "share the folder"),
    ],
)
def test_what_does_not_compare(axes, says):
    with pytest.raises(UserError, match=says) as caught:
        cells(SMOKE, [parse_axis(text) for text in axes], [])
    assert "\n" not in str(caught.value)


def test_shared_parameters_begin_equal():
    """Of one seed, parameters of the same name and shape have the same initial values in every mechanism."""

    def initial(cell):
        params = setup.build(cell.config).parallel.init_state().params
        return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}

    # Both others have parameters of their own, which are made before some that they share with softmax attention.
    names = ("softmax", "neural", "super")
    softmax, *others = map(initial, cells(SMOKE, [Axis("model.attention.name", names)], []))
    for name, own in zip(names[1:], others, strict=True):
        shared = [path for path in own if path in softmax and own[path].shape == softmax[path].shape]
        assert set(own) - set(shared)
        assert "block_0/attention/query/kernel" in shared
        assert any(not path.startswith("block_") for path in shared)
        for path in shared:
            np.testing.assert_array_equal(own[path], softmax[path], err_msg=f"{name}: {path}")
