"""What checks types in tests, behind jaxtyping's import hook."""

from collections.abc import Callable
from typing import TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable)


def checked(function: F) -> F:
    """Checks a function of a module or class at each call, by beartype.

    Not one that is defined in a call of another one: its checks would be compiled anew in each such call, which took a
    fifth of the time of the contract's tests. Its arguments come from functions that are checked.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
