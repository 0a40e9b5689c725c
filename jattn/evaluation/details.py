"""Beyond means: which classes are taken for which, and whether a model is as sure as it is right."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn.config import LossConfig
from jattn.task import Task
from jattn.training import losses
from jattn.types import Array, Bool, Float, Int

MATRIX = 200
"""The confusion matrix of more classes is not written: nobody reads a million numbers."""


def detailed(config: LossConfig, task: Task, bins: int) -> Callable[[Array, Array, Array], dict[str, Any]]:
    """The function (logits, targets, weight) -> sums: `losses.means` as `means`, and

    confusion: (classes, classes), how often a class (row) was taken for another (column); of classifiers only.
    reliability: (bins, 3), of predictions with a confidence in the n-th bin their number, the sum of their confidences,
      and how many were right. A loss without probabilities (mean_squared_error) has none.
    """

    def measure(logits: Array, targets: Array, weight: Array) -> dict[str, Any]:
        sums: dict[str, Any] = {"means": losses.means(config)(logits, targets, weight)}
        predicted, confidence = predictions(logits, config)
        if task.kind != "language":
            nothing = jnp.zeros((task.num_classes, task.num_classes))
            sums["confusion"] = nothing.at[targets, predicted].add(weight)
        if config.name != "mean_squared_error":
            right = losses.correct(logits, targets, config.threshold)
            sums["reliability"] = reliability(confidence, right, weight, bins)
        return sums

    return measure


def predictions(logits: Float[Array, "*B V"], config: LossConfig) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
    """The class that is predicted, and its probability. A single logit is that of class 1."""
    if logits.shape[-1] == 1:
        predicted = logits[..., 0] > config.threshold
        sign = jnp.where(predicted, 1.0, -1.0)
        return predicted.astype(jnp.int32), jax.nn.sigmoid(sign * logits[..., 0])
    return jnp.argmax(logits, axis=-1), jnp.exp(jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1))


def reliability(
    confidence: Float[Array, "*B"], right: Bool[Array, "*B"], weight: Float[Array, "*B"], bins: int
) -> Float[Array, "N 3"]:
    """Number, sum of confidences, and right ones of the predictions in each bin: above n / bins, to (n + 1) / bins."""
    counted = weight.reshape(-1) != 0
    confidence = jnp.where(counted, confidence.reshape(-1), 0.0)  # what does not count may be NaN
    place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    ones = jnp.ones_like(confidence)
    values = jnp.stack([ones, confidence, right.reshape(-1).astype(jnp.float32)], axis=-1)
    return jnp.zeros((bins, 3)).at[place].add(values * weight.reshape(-1, 1))


def calibration(sums: np.ndarray) -> dict[str, Any]:
    """The expected calibration error and the bins of `reliability`'s sums.

    The error is the mean distance of accuracy and confidence, bins weighed by their predictions (Guo et al. 2017,
    arXiv:1706.04599, equation 3). Bins without predictions have None.
    """
    number, confidence, right = sums.T
    total = number.sum()
    error = np.abs(right - confidence).sum() / total if total else None
    return {
        "expected_calibration_error": None if error is None else float(error),
        "bins": [
            {
                "from": n / len(sums),
                "to": (n + 1) / len(sums),
                "predictions": _whole(number[n]),
                "confidence": _share(confidence[n], number[n]),
                "accuracy": _share(right[n], number[n]),
            }
            for n in range(len(sums))
        ],
    }


def classes(confusion: np.ndarray) -> dict[str, Any]:
    """Recall and precision of each class, which ones are taken for which most often, and, of up to MATRIX classes, the
    confusion matrix with a row for each true class."""
    right, wrong = np.diagonal(confusion), confusion * (1 - np.eye(len(confusion)))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:10]
    pairs = [(int(a), int(b)) for a, b in zip(*np.unravel_index(worst, wrong.shape), strict=True) if wrong[a, b]]
    found: dict[str, Any] = {
        "recall": [_share(a, b) for a, b in zip(right, confusion.sum(axis=1), strict=True)],
        "precision": [_share(a, b) for a, b in zip(right, confusion.sum(axis=0), strict=True)],
        "most_confused": [{"class": a, "taken_for": b, "examples": _whole(wrong[a, b])} for a, b in pairs],
    }
    if len(confusion) <= MATRIX:
        found["confusion"] = [[_whole(value) for value in row] for row in confusion]
    return found


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _whole(value: float) -> float | int:
    """Examples are whole, weights need not be."""
    return int(value) if value == int(value) else float(value)
