"""What a page carries: JSON, programs and arrays, compressed, as text. The browser's DecompressionStream opens them."""

import base64
import gzip
import json
from typing import Any

import numpy as np

from jattn.analysis.report import plain

DIGITS = 5
"""Significant digits of the numbers that a page draws."""

FINEST, GREATEST = 255, 65_535
"""Steps of a map's weights, as parts of the largest of their row, and of these largest ones, as parts of 1."""


def packed(content: bytes) -> str:
    """gzip and base64, the same text for the same bytes."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode("ascii")


def packed_json(value: Any) -> str:
    """A JSON value, its floats to `DIGITS` digits, those that are not finite as null."""
    return packed(json.dumps(_rounded(plain(value)), separators=(",", ":"), allow_nan=False).encode())


def quantized(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps of shares, (..., T, S), in a third of float32's bytes.

    Returns:
      uint8 (..., T, S), each share as a part of the largest of its row, and uint16 (..., T), these largest ones.
    """
    largest = maps.max(-1, keepdims=True, initial=0.0)
    parts = np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)
    return (
        np.round(FINEST * parts).astype(np.uint8),
        np.round(GREATEST * np.minimum(largest[..., 0], 1.0)).astype("<u2"),
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
