"""Numbers and names as a page writes them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jattn.compare.table import unit


def named(measure: str) -> str:
    """A measure with its unit.

    >>> named("top5_accuracy")
    'top5 accuracy, %'
    """
    sign, _ = unit(measure)
    return measure.replace("_", " ") + (f", {sign}" if sign else "")


def number(value: float | int | None, factor: float = 1.0) -> str:
    """To four digits; None is empty.

    >>> number(0.012345, 100)
    '1.234'
    """
    return "" if value is None else f"{factor * value:.4g}".replace("-", "−")


def places(values: Sequence[float]) -> int:
    """Decimals with which the largest of these values has four digits, so that a column of them lines up.

    >>> places([93.17, 8.2]), places([0.01234]), places([])
    (2, 5, 0)
    """
    largest = max(map(abs, values), default=0.0)
    return max(0, 3 - math.floor(math.log10(largest))) if largest else 0


def fixed(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """With so many decimals; None is empty.

    >>> fixed(-0.5571, 2, sign=True), fixed(-1e-16, 2, sign=True)
    ('−0.56', '0.00')
    """
    if value is None:
        return ""
    rounded = round(value, decimals) + 0.0  # -0.0 becomes 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{decimals}f}".replace("-", "−")


def interval(ends: Sequence[float] | None, factor: float, decimals: int, *, sign: bool = False) -> str:
    """Both ends, times a factor."""
    return "" if ends is None else " to ".join(fixed(factor * end, decimals, sign=sign) for end in ends)


def commit(found: Mapping[str, Any] | None) -> str:
    """A state of the code, as `jattn.bench.results.commit` describes it."""
    return "unknown" if found is None else found["hash"][:12] + (" with changes" if found["dirty"] else "")


def count(number: int, noun: str) -> str:
    """A number of things.

    >>> count(1, "seed"), count(6, "seed")
    ('1 seed', '6 seeds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
