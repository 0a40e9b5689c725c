"""Option strings: what they mean, and the sentence for what they cannot mean."""

import doctest

import pytest

from jattn import errors, literals
from jattn.errors import UserError
from jattn.literals import parse_calls, parse_indexed_calls, parse_options


@pytest.mark.parametrize("module", [literals, errors])
def test_the_examples_in_the_documentation_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  ", {}),
        ("a=1,", {"a": 1}),
        ("a=-1, b=2.5e-3", {"a": -1, "b": 2.5e-3}),
        ("a='x, y', b=None", {"a": "x, y", "b": None}),
        ("a=1 # a comment", {"a": 1}),
        ("a=(1, 2), b=[(3, 4)], c=()", {"a": (1, 2), "b": [(3, 4)], "c": ()}),
    ],
)
def test_options(text, expected):
    assert parse_options(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("softmax", [("softmax", {})]),
        ("local(), local(window=(3, 0), name='a,b')", [("local", {}), ("local", {"window": (3, 0), "name": "a,b"})]),
    ],
)
def test_calls(text, expected):
    assert parse_calls(text) == expected


def test_calls_keep_order_and_repetitions():
    assert [name for name, _ in parse_calls("b, a, b")] == ["b", "a", "b"]


def test_indexed_calls():
    assert parse_indexed_calls("") == {}
    expected = {2: ("local", {"window": 8, "span": (1, 2)}), 0: ("softmax", {})}
    assert parse_indexed_calls("2:local(window=8, span=(1, 2)), 0 : softmax") == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a", "'a' in 'a' has no name"),
        ("1", "has no name"),
        ("*a", "has no name"),
        ("a=", "cannot read 'a='"),
        ("a=1 b=2", "cannot read"),
        ("a=1)(b=2", "cannot read"),
        ("**a", "cannot read"),
        ("\0", "cannot read"),
        ("a=" + "(" * 500, "cannot read"),
        ("a=1, a=2", "option a occurs twice"),
        ("score=cosine", "'cosine' in 'score=cosine' is no Python literal: .*in quotes"),
        ("a=2 * 32", r"'2 \* 32' in 'a=2 \* 32' is no Python literal"),
        ("a=f()", "no Python literal"),
        ("a={[]: 1}", "no Python literal"),
    ],
)
def test_options_that_cannot_be_read(text, says):
    with pytest.raises(UserError, match=says):
        parse_options(text)


@pytest.mark.parametrize(
    "text", ["local(64)", "a-b", "a.b", "'a'", "3", "a], [b", "a][0", "(a, b)", "a(b=1)(c=2)", "a b"]
)
def test_calls_that_cannot_be_read(text):
    with pytest.raises(UserError, match="local\\(window=64\\), softmax"):
        parse_calls(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("softmax", "cannot read 'softmax': write layers such as '0:local"),
        ("0:local(64)", "has no name"),
        ("**a", "cannot read"),
        ("0:a}, {1:b", "cannot read"),
        ("0:a, 0:b", "index 0 occurs twice"),
        ("True:a", "index True in 'True:a' is no integer"),
        ("0.5:a", "no integer"),
        ("first:a", "no Python literal"),
        ("0:'a'", "cannot read"),
    ],
)
def test_indexed_calls_that_cannot_be_read(text, says):
    with pytest.raises(UserError, match=says):
        parse_indexed_calls(text)
