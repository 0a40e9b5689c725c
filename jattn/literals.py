"""Option strings: Python literals with names, as they are typed on a command line.

>>> parse_options("projection_dim=4, hidden=(8, 2), rotary=True")
{'projection_dim': 4, 'hidden': (8, 2), 'rotary': True}
>>> parse_calls("local(window=64), softmax")
[('local', {'window': 64}), ('softmax', {})]
>>> parse_indexed_calls("0:neural(projection_dim=4), 3:local")
{0: ('neural', {'projection_dim': 4}), 3: ('local', {})}
"""

import ast
from typing import Any

from jattn.errors import UserError

Call = tuple[str, dict[str, Any]]
"""A name and its options."""

_OPTIONS = "options such as 'window=64, rotary=True'"
_CALLS = "names such as 'local(window=64), softmax'"
_INDEXED = "layers such as '0:local(window=64), 3:softmax'"


def parse_options(text: str) -> dict[str, Any]:
    """The options of a string of `name=literal` separated by commas; an empty string has none.

    Raises:
      UserError: it is not of this form, a value is no Python literal, or a name occurs twice.
    """
    call = _parse(f"options({text}\n)", text, _OPTIONS)
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise _malformed(text, _OPTIONS)
    return _keywords(call, text, _OPTIONS)


def parse_calls(text: str) -> list[Call]:
    """The (name, options) pairs of a string of `name` or `name(option=literal)` separated by commas.

    Raises:
      UserError: it is not of this form, a value is no Python literal, or an option occurs twice.
    """
    items = _parse(f"[{text}\n]", text, _CALLS)
    if not isinstance(items, ast.List):
        raise _malformed(text, _CALLS)
    return [_call(item, text, _CALLS) for item in items.elts]


def parse_indexed_calls(text: str) -> dict[int, Call]:
    """The (name, options) pairs of a string of `index:name` or `index:name(option=literal)`, by index.

    Raises:
      UserError: as `parse_calls`, or an index is no integer or occurs twice.
    """
    items = _parse(f"{{{text}\n}}", text, _INDEXED)
    if not isinstance(items, ast.Dict):
        raise _malformed(text, _INDEXED)
    calls: dict[int, Call] = {}
    for key, item in zip(items.keys, items.values, strict=True):
        if key is None:
            raise _malformed(text, _INDEXED)
        index = _literal(key, text)
        if type(index) is not int:
            raise UserError(f"index {ast.unparse(key)} in {text!r} is no integer: write {_INDEXED}")
        if index in calls:
            raise UserError(f"index {index} occurs twice in {text!r}: give each index once")
        calls[index] = _call(item, text, _INDEXED)
    return calls


def _parse(source: str, text: str, example: str) -> ast.expr:
    try:
        return ast.parse(source, mode="eval").body
    # What the parser raises for null bytes and for brackets nested too deeply are not syntax errors.
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _malformed(text, example) from None


def _call(node: ast.expr, text: str, example: str) -> Call:
    if isinstance(node, ast.Name):
        return node.id, {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id, _keywords(node, text, example)
    raise _malformed(text, example)


def _keywords(call: ast.Call, text: str, example: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if call.args:
        raise UserError(f"{ast.unparse(call.args[0])!r} in {text!r} has no name: write {example}")
    for keyword in call.keywords:
        if keyword.arg is None:
            raise _malformed(text, example)
        if keyword.arg in options:
            raise UserError(f"option {keyword.arg} occurs twice in {text!r}: give each option once")
        options[keyword.arg] = _literal(keyword.value, text)
    return options


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        raise UserError(
            f"{ast.unparse(node)!r} in {text!r} is no Python literal: write a number, True, False, None, "
            'a string in quotes ("cosine"), or a tuple of these'
        ) from None


def _malformed(text: str, example: str) -> UserError:
    return UserError(f"cannot read {text!r}: write {example}")


def parse_checkpoint(text: str) -> str | int:
    """Which checkpoint of a run is meant.

    >>> parse_checkpoint("newest"), parse_checkpoint("1200")
    ('newest', 1200)

    Raises:
      UserError: it is none of "best", "newest" and the number of a step.
    """
    if text in ("best", "newest"):
        return text
    if text.isdecimal():
        return int(text)
    raise UserError(f"--checkpoint={text}: choose best, newest, or the number of a step")
