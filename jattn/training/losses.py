"""Losses and accuracies, one number an example (or token), and their weighted sums.

Logits are float32 (..., V), targets int (...). Every mean is a pair (sum, count), so that means over
micro-batches, devices and batches are exact: add the pairs, then divide.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jattn.config import LossConfig
from jattn.errors import UserError, unknown
from jattn.task import Task
from jattn.types import Array, Bool, Float, Int

Mean = tuple[Float[Array, ""], Float[Array, ""]]
"""A weighted sum and the sum of its weights."""

TOP = 5
"""The k of top-k accuracy."""


def _one_hot(targets: Int[Array, "*B"], num_classes: int, label_smoothing: float | int) -> Float[Array, "*B V"]:
    return optax.smooth_labels(jax.nn.one_hot(targets, num_classes), label_smoothing)


def cross_entropy(
    logits: Float[Array, "*B V"], targets: Int[Array, "*B"], label_smoothing: float | int = 0.0
) -> Float[Array, "*B"]:
    """Softmax cross-entropy in nats; smoothing moves that share of the target evenly to all V classes."""
    if not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return optax.softmax_cross_entropy(logits, _one_hot(targets, logits.shape[-1], label_smoothing))


def binary_cross_entropy(
    logits: Float[Array, "*B 1"], targets: Int[Array, "*B"], label_smoothing: float | int = 0.0
) -> Float[Array, "*B"]:
    """Cross-entropy in nats of one logit for class 1 of the classes 0 and 1."""
    labels = (1.0 - label_smoothing) * targets.astype(logits.dtype) + label_smoothing / 2
    return optax.sigmoid_binary_cross_entropy(logits[..., 0], labels)


def mean_squared_error(
    logits: Float[Array, "*B V"], targets: Int[Array, "*B"], label_smoothing: float | int = 0.0
) -> Float[Array, "*B"]:
    """Mean over the V outputs of the squared difference to the one-hot target."""
    return jnp.mean(jnp.square(logits - _one_hot(targets, logits.shape[-1], label_smoothing)), axis=-1)


LOSSES: dict[str, Callable[..., Float[Array, "*B"]]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mean_squared_error": mean_squared_error,
}
"""Name -> function of (logits, targets, label_smoothing), one loss an example or token."""


def num_outputs(config: LossConfig, task: Task) -> int | None:
    """How many outputs the loss wants of a model, whatever the task's classes: 1 for one logit, else None.

    Raises:
      UserError: unknown loss, smoothing out of range, a threshold without, or one logit for anything but two classes.
    """
    if config.name not in LOSSES:
        raise unknown("loss", config.name, LOSSES)
    if not 0 <= config.label_smoothing < 1:
        raise UserError(f"loss.label_smoothing={config.label_smoothing} must be at least 0 and below 1")
    if config.name != "binary_cross_entropy":
        if config.threshold != LossConfig.threshold:
            raise UserError(
                f"loss.threshold={config.threshold} is that of a single logit, which loss.name={config.name} does not "
                f"have: leave it at {LossConfig.threshold}, or use binary_cross_entropy"
            )
        return None
    if task.num_classes != 2:
        classes = "tokens" if task.num_classes is None else f"{task.num_classes} classes"
        raise UserError(
            f"loss.name=binary_cross_entropy needs two classes, and this data set has {classes}: use cross_entropy"
        )
    return 1


def measured(config: LossConfig, task: Task) -> tuple[str, ...]:
    """Names of what an evaluation step measures, in the order of columns.

    >>> measured(LossConfig(), Task(kind="image", num_classes=10, image_shape=(8, 8, 1)))
    ('loss', 'accuracy', 'top5_accuracy')
    """
    num_logits = task.vocab_size if task.kind == "language" else num_outputs(config, task) or task.num_classes
    return ("loss", "accuracy", "top5_accuracy") if num_logits > TOP else ("loss", "accuracy")


def correct(logits: Float[Array, "*B V"], targets: Int[Array, "*B"], threshold: float | int = 0.0) -> Bool[Array, "*B"]:
    """Whether the largest logit is the target's; a single logit predicts class 1 above the threshold."""
    if logits.shape[-1] == 1:
        return (logits[..., 0] > threshold) == (targets == 1)
    return jnp.argmax(logits, axis=-1) == targets


def correct_in_top(logits: Float[Array, "*B V"], targets: Int[Array, "*B"], k: int = TOP) -> Bool[Array, "*B"]:
    """Whether the target is among the k largest logits."""
    _, best = jax.lax.top_k(logits, k)
    return jnp.any(best == targets[..., None], axis=-1)


def weighted(values: Float[Array, "*B"] | Bool[Array, "*B"], weight: Float[Array, "*B"]) -> Mean:
    """(sum of weight * value, sum of weight). What has weight 0 may hold anything, NaN included."""
    values = jnp.where(weight != 0, values.astype(jnp.float32), 0.0)
    return jnp.sum(values * weight), jnp.sum(weight)


def means(config: LossConfig) -> Callable[[Array, Array, Array], dict[str, Mean]]:
    """The function (logits, targets, weight) -> pairs of loss, accuracy and, beyond 5 classes, top5_accuracy.

    Padded examples and tokens have weight 0. The loss has no label smoothing, so that runs compare.
    """

    def measure(logits: Float[Array, "*B V"], targets: Int[Array, "*B"], weight: Float[Array, "*B"]) -> dict[str, Mean]:
        values = {
            "loss": LOSSES[config.name](logits, targets),
            "accuracy": correct(logits, targets, config.threshold),
        }
        if logits.shape[-1] > TOP:
            values["top5_accuracy"] = correct_in_top(logits, targets)
        return {name: weighted(value, weight) for name, value in values.items()}

    return measure
