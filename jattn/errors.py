"""What a user can cause, said in one sentence."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the user's input: what is wrong, what is allowed, what to do.

    The command line prints its message without a traceback and exits with code 2.
    """


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, nearest existing names first.

    >>> print(unknown("mechanism", "sofmax", ["neural", "softmax"]))
    unknown mechanism 'sofmax': did you mean 'softmax'? known: neural, softmax
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    hint = f" did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return UserError(f"unknown {kind} {name!r}:{hint} known: {', '.join(known) or 'none'}")
