"""What checks types in tests, behind jaxtyping's import hook.

The hook puts `jaxtyping.jaxtyped` on every function and class of the package; here it is one that checks the same of
functions in less time. The original makes two functions of a signature, one for the arguments and one for all of it,
binds the arguments besides, and does so to functions without annotations too. It took a sixth of the tests' time.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(violation_type=TypeError))

_original = jaxtyping.jaxtyped


def jaxtyped(item: Any = None, *, typechecker: Callable[[Callable], Callable]) -> Any:
    """Checks the annotations of a function at each call of it, those of a data class when one is made.

    Not those of a function that is defined in a call of another one: its checks would be compiled anew in each such
    call, which took a fifth of the time of the contract's tests. Its arguments come from functions that are checked.
    """
    if item is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(item):
        return _original(item, typechecker=typechecker)
    if "<locals>" in item.__qualname__ or not item.__annotations__:
        return item
    if any(isinstance(annotation, str) for annotation in item.__annotations__.values()):
        return _original(item, typechecker=typechecker)  # it passes over names that are imported for type checkers only

    @functools.cache
    def complete() -> Callable:
        return typechecker(item)  # most of what a process imports is never called there

    @functools.wraps(item)
    def in_a_scope(*args, **kwargs):
        if jaxtyping.config.jaxtyping_disable:
            return item(*args, **kwargs)
        with _original("context"):  # within it, a letter stands for one size
            return complete()(*args, **kwargs)

    return in_a_scope


jaxtyping.jaxtyped = jaxtyped  # which the hook looks up whenever a function is defined
