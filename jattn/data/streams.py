"""Random numbers as functions of what they are for: the same on every platform and with every release of NumPy.

NumPy guarantees the raw words of its bit generators for ever, but not what `np.random.Generator` makes of them.
The order of the training examples and the generated data sets must survive an upgrade, so they are built from
the raw words of Philox alone.
"""

import zlib

import numpy as np


def stream(purpose: str, *numbers: int) -> np.random.Philox:
    """The bit generator of one purpose and some non-negative numbers (below 2**64): seed, epoch, chunk ..."""
    words = [zlib.crc32(purpose.encode()), len(numbers)]
    for number in numbers:
        words += [number % 2**32, number >> 32]  # SeedSequence would take as few words as the number needs
    return np.random.Philox(np.random.SeedSequence(words))


def uniform(bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 numbers in [0, 1), 53 random bits each."""
    return (_words(bits, shape) >> np.uint64(11)) * 2.0**-53


def integers(bits: np.random.Philox, shape: tuple[int, ...], bound: int) -> np.ndarray:
    """Int64 numbers in [0, bound), bound at most 2**32; the bias is below bound / 2**32."""
    return (((_words(bits, shape) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def permutation(bits: np.random.Philox, size: int) -> np.ndarray:
    """A random order of 0 .. size-1, int64."""
    return np.argsort(_words(bits, (size,)), kind="stable")


def distinct(bits: np.random.Philox, rows: int, count: int, bound: int) -> np.ndarray:
    """In each row, `count` different numbers of [0, bound) in random order; int64 (rows, count).

    Floyd's sampling (Bentley and Floyd 1987, doi:10.1145/30401.315746): its cost does not grow with `bound`.
    """
    chosen = np.empty((rows, count), np.int64)
    for place, top in enumerate(range(bound - count, bound)):
        candidate = integers(bits, (rows,), top + 1)
        taken = (chosen[:, :place] == candidate[:, None]).any(axis=1)
        chosen[:, place] = np.where(taken, top, candidate)
    # Floyd's subsets are uniform, his order is not.
    order = np.argsort(_words(bits, (rows, count)), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


def _words(bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    return bits.random_raw(int(np.prod(shape))).reshape(shape)
