"""What a run's files say about its course: when a threshold was reached, the area under a curve, speed, memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jattn.training.metrics import read_csv

HIGHER_IS_BETTER = ("accuracy", "top5_accuracy")
"""Measures of which more is better; of all others less is."""


@dataclass(frozen=True)
class Course:
    """One run.

    Attributes:
      steps: at which it was validated.
      values: of the validation metric, at these.
      steps_per_second: median over the intervals of its log, validation and checkpoints left out; None = too short.
      peak_memory_bytes: of the device, or on a CPU of the process.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    steps_per_second: float | None
    peak_memory_bytes: int | None


def read_course(folder: Path, metric: str) -> Course:
    """The course of the run in a folder, by a metric of its validation such as "loss"."""
    metrics, timing = read_csv(folder / "metrics.csv"), read_csv(folder / "timing.csv")
    pairs = zip(metrics["step"], metrics[f"valid/{metric}"], strict=True)
    points = [(int(step), value) for step, value in pairs if value is not None]
    rates = [rate for rate in timing["steps_per_second"] if rate is not None]
    memory = [size for size in timing["peak_memory_bytes"] if size is not None]
    return Course(
        steps=tuple(step for step, _ in points),
        values=tuple(value for _, value in points),
        steps_per_second=float(np.median(rates)) if rates else None,
        peak_memory_bytes=int(max(memory)) if memory else None,
    )


def best(course: Course, higher: bool) -> float:
    """The best value of a run."""
    return (max if higher else min)(course.values)


def threshold(courses: Sequence[Course], higher: bool) -> float | None:
    """The value that each of these runs has reached at some time; None without runs."""
    reached = [best(course, higher) for course in courses]
    return (min if higher else max)(reached) if reached else None


def steps_to(course: Course, value: float, higher: bool) -> int | None:
    """The first validation at which the value was reached; None if none did."""
    return next(
        (s for s, v in zip(course.steps, course.values, strict=True) if (v >= value if higher else v <= value)), None
    )


def area(course: Course) -> float:
    """The mean height of the curve from the first validation to the last, in steps: its area over their distance."""
    if len(course.steps) == 1:
        return course.values[0]
    return float(np.trapezoid(course.values, course.steps) / (course.steps[-1] - course.steps[0]))
