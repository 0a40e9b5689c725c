"""The masks of adaptive span in NumPy float64, from the equations."""

import numpy as np


def span_mask(span, softness, distance):
    """1 up to the span, then falling to 0 over the softness: (H, *distance)."""
    distance = np.asarray(distance, np.float64)
    span = np.asarray(span, np.float64).reshape(-1, *(1,) * distance.ndim)
    return np.clip((softness - distance + span) / softness, 0, 1)


def triangle_mask(period, ratio, harmonics, distance):
    """The Fourier series of a triangle wave, shifted: (H, *distance)."""
    distance = np.asarray(distance, np.float64)
    shape = (-1, *(1,) * distance.ndim)
    period, ratio = (np.asarray(x, np.float64).reshape(shape) for x in (period, ratio))
    amplitude = period / 4
    angle = np.fmod(2 * np.pi * distance / period, 2 * np.pi)
    terms = (8 * (1 - (-1) ** k) / (np.pi * k) ** 2 * np.cos(k * angle) for k in range(1, harmonics + 1))
    return np.clip(amplitude / 2 * sum(terms) + 0.5 + period * ratio, 0, 1)


def log_mask(*masks):
    """The sum of the logarithms, -inf where a mask is at most 1e-6."""
    smallest = np.minimum.reduce(np.broadcast_arrays(*masks))
    return np.where(smallest <= 1e-6, -np.inf, sum(np.log(np.maximum(mask, 1e-6)) for mask in masks))
