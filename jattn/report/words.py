"""Numbers and names as a page writes them."""

import re
from collections.abc import Sequence

from jattn.compare.table import unit


def named(measure: str) -> str:
    """A measure with its unit.

    >>> named("top5_accuracy")
    'top5 accuracy, %'
    """
    sign, _ = unit(measure)
    return re.sub("[_]", " ", measure) + (f", {sign}" if sign else "")


def number(value: float | int | None, factor: float = 1.0, *, sign: bool = False) -> str:
    """To four digits; None is empty.

    >>> number(0.012345, 100, sign=True)
    '+1.234'
    """
    return "" if value is None else f"{factor * value:{'+' if sign and value else ''}.4g}".replace("-", "−")


def interval(ends: Sequence[float] | None, factor: float = 1.0, *, sign: bool = False) -> str:
    """Both ends."""
    return "" if ends is None else " to ".join(number(end, factor, sign=sign) for end in ends)


def count(number: int, noun: str) -> str:
    """A number of things.

    >>> count(1, "seed"), count(6, "seed")
    ('1 seed', '6 seeds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
