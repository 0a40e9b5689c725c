"""Which mechanism each layer uses: option strings, checked against the modules' fields."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import pytest

from jattn.attention import MECHANISMS, Attention, SoftmaxAttention
from jattn.attention.mechanism import Mechanism, mechanism, mix
from jattn.errors import UserError


class Fancy(Attention):
    """A module with fields of every kind that an option can have."""

    lacks: ClassVar[Mapping[str, str]] = {"causal": "its kernel is centred on the query"}

    window: int | tuple[int, int] = 3
    spans: tuple[int, ...] = ()
    kind: Literal["all", "random"] = "all"
    rate: float | int = 0.5
    flag: bool = False
    title: str | None = None


@pytest.fixture(autouse=True)
def _two_mechanisms(monkeypatch):
    for name in set(MECHANISMS) - {"softmax"}:
        monkeypatch.delitem(MECHANISMS, name)
    monkeypatch.setitem(MECHANISMS, "fancy", Fancy)


def test_a_mechanism_makes_its_module():
    chosen = mechanism("softmax", {"rotary": True, "num_key_heads": 2})
    assert chosen == Mechanism("softmax", (("num_key_heads", 2), ("rotary", True)))
    module = chosen.module(num_heads=4, causal=True, dropout_rate=0.25)
    expected = SoftmaxAttention(num_heads=4, causal=True, dropout_rate=0.25, rotary=True, num_key_heads=2)
    assert module == expected


def test_options_override_what_the_model_sets():
    chosen = mechanism("softmax", {"num_heads": 2, "dropout_rate": 0, "use_bias": False, "head_dim": 5})
    module = chosen.module(num_heads=4, dropout_rate=0.5, use_bias=True)
    assert (module.num_heads, module.dropout_rate, module.use_bias, module.head_dim) == (2, 0, False, 5)


def test_a_mechanism_knows_its_fields_and_what_it_lacks():
    softmax, fancy = mechanism("softmax", {}), mechanism("fancy", {})
    assert softmax.has_field("num_key_heads")
    assert not fancy.has_field("num_key_heads")
    assert fancy.lacks("causal")
    assert not softmax.lacks("causal")


def test_values_become_hashable():
    chosen = mechanism("fancy", {"spans": [1, 2]})
    assert chosen.options == (("spans", (1, 2)),)
    assert hash(chosen) == hash(mechanism("fancy", {"spans": (1, 2)}))


@pytest.mark.parametrize(
    "options",
    [
        {"window": 4},
        {"window": (2, 1)},
        {"spans": ()},
        {"spans": (1, 2, 3)},
        {"kind": "random"},
        {"rate": 1},
        {"rate": 0.1},
        {"flag": True},
        {"title": None},
        {"title": "x"},
    ],
)
def test_values_of_a_fields_type(options):
    assert dict(mechanism("fancy", options).options) == options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": 4.0}, r"option window of mechanism 'fancy' is 4.0: it must be int or tuple\[int, int\]"),
        ({"window": True}, "option window of mechanism 'fancy' is True"),
        ({"window": (1, 2, 3)}, "option window"),
        ({"window": (1, "2")}, "option window"),
        ({"spans": 3}, "option spans"),
        ({"spans": (1, 0.5)}, "option spans"),
        ({"kind": "some"}, "option kind of mechanism 'fancy' is 'some': it must be one of 'all', 'random'"),
        ({"rate": "high"}, "it must be float or int"),
        ({"rate": True}, "option rate of mechanism 'fancy' is True"),
        ({"flag": 1}, "it must be bool"),
        ({"title": 3}, "it must be str or None"),
        ({"title": {}}, "it must be str or None"),
        ({"widnow": 3}, r"unknown option of mechanism 'fancy' 'widnow': did you mean 'window'\? known: as_published"),
        ({"name": "x"}, "unknown option of mechanism 'fancy' 'name'"),
        ({"parent": None}, "unknown option"),
        ({"causal": True}, "option causal of mechanism 'fancy' is set by the model"),
        ({"decode": True}, "set by the model"),
        ({"dtype": "bfloat16"}, "set by the model"),
    ],
)
def test_options_that_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        mechanism("fancy", options)


def test_an_unknown_option_does_not_list_what_cannot_be_set():
    with pytest.raises(UserError) as raised:
        mechanism("softmax", {"x": 1})
    known = str(raised.value).split("known: ")[1].split(", ")
    assert {"num_heads", "head_dim", "rotary", "as_published"} <= set(known)
    assert not {"name", "parent", "causal", "decode", "dtype"} & set(known)


def test_an_unknown_mechanism_is_refused():
    with pytest.raises(UserError, match="unknown mechanism 'sofmax': did you mean 'softmax'"):
        mechanism("sofmax", {})


def test_a_mechanism_that_cannot_names_those_that_can():
    with pytest.raises(
        UserError, match=r"'fancy': Fancy has no causal form .*: its kernel .*; these have it: softmax$"
    ):
        mechanism("fancy", {}).module(num_heads=2, causal=True)


def names(layers):
    return [layer.name for layer in layers]


def test_one_mechanism_in_all_layers():
    layers = mix(3, "softmax", "rotary=True")
    assert layers == (mechanism("softmax", {"rotary": True}),) * 3


def test_layers_override():
    layers = mix(4, "softmax", "rotary=True", layers="3:fancy(window=(1, 2)), 0:softmax")
    assert names(layers) == ["softmax", "softmax", "softmax", "fancy"]
    assert [dict(layer.options) for layer in layers] == [{}, {"rotary": True}, {"rotary": True}, {"window": (1, 2)}]


def test_a_pattern_repeats_over_the_depth_and_layers_override_it():
    assert names(mix(5, "softmax", pattern="fancy, fancy, softmax")) == ["fancy", "fancy", "softmax", "fancy", "fancy"]
    assert names(mix(3, "softmax", pattern="fancy", layers="1:softmax")) == ["fancy", "softmax", "fancy"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"layers": "2:softmax"}, "layer 2 in '2:softmax' does not exist: the model has layers 0 to 1"),
        ({"layers": "-1:softmax"}, "layer -1"),
        ({"layers": "0:sofmax"}, "unknown mechanism 'sofmax'"),
        ({"layers": "0:fancy(kind=1)"}, "option kind"),
        ({"layers": "softmax"}, "cannot read 'softmax'"),
        ({"pattern": "softmax, fancy, softmax"}, "has 3 layers, the model 2"),
        ({"pattern": "softmax,, fancy"}, "cannot read"),
        ({"pattern": "fancy(widow=2)"}, "unknown option"),
        ({"pattern": "fancy", "options": "rotary=True"}, "options 'rotary=True' belong to mechanism 'softmax'"),
        ({"options": "rotary"}, "has no name"),
    ],
)
def test_mixes_that_are_refused(arguments, says):
    with pytest.raises(UserError, match=says):
        mix(2, "softmax", **arguments)
