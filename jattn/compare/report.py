"""What a comparison found, as one object: the content of `comparison.json`."""

import dataclasses
import datetime
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optax
import scipy

from jattn import config_json
from jattn.bench.results import commit, versions
from jattn.compare import course, notes, statistics
from jattn.compare.matching import Size
from jattn.compare.runs import Outcome
from jattn.compare.speed import ROUNDS, Speed, Speeds

FORMAT = 2

BASELINE, BETTER, WORSE, NONE_SHOWN, NOT_TESTED = (
    "baseline", "better", "worse", "no difference shown", "not tested: fewer than 2 pairs of finished runs",
)  # fmt: skip
"""Verdicts."""

ORIGIN = ("commit", "machine", "versions")
"""What a run was made by, as its worker recorded it."""

CURVES = ("loss", "accuracy", "top5_accuracy")
"""Measures that validation has too. The others are functions of the loss, whose curve stands for theirs."""


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of the runs.

    Attributes:
      measure: of the evaluation that is compared.
      baseline: name of the cell that the others are compared with.
      threshold: of the validation curve; None = what every finished run of the baseline reached.
    """

    measure: str
    baseline: str
    threshold: float | None

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        return self.measure in course.HIGHER_IS_BETTER

    @property
    def curve(self) -> str:
        """The validation metric whose course is described."""
        return self.measure if self.measure in CURVES else "loss"


def build(
    outcomes: Sequence[Outcome],
    sizes: Mapping[str, Size],
    question: Question,
    about: Mapping[str, Any],
    speeds: Speeds | None = None,
) -> dict[str, Any]:
    """The whole report.

    Args:
      outcomes: of all runs.
      sizes: of the cells' models, by name.
      question: what is asked.
      about: further entries for its head: how the runs were chosen.
      speeds: of the cells' training steps, if these were timed after the runs; None = what the runs themselves saw.
    """
    outcomes = [_checked(outcome, question.measure) for outcome in outcomes]
    courses = {
        outcome.job.folder: course.read_course(outcome.job.folder, question.curve)
        for outcome in outcomes
        if not outcome.failure
    }
    of_baseline = [o for o in outcomes if o.job.cell.name == question.baseline and not o.failure]
    threshold = question.threshold
    if threshold is None:
        threshold = course.threshold([courses[o.job.folder] for o in of_baseline], question.higher)
    origins = list({_origin(outcome): None for outcome in outcomes if outcome.record})
    rows = [
        _run(outcome, courses.get(outcome.job.folder), threshold, question.higher)
        | {"origin": origins.index(_origin(outcome)) if outcome.record else None}
        for outcome in outcomes
    ]
    names = list(dict.fromkeys(outcome.job.cell.name for outcome in outcomes))
    first = {outcome.job.cell.name: outcome.job for outcome in reversed(outcomes)}
    by_cell = {name: [row for row in rows if row["cell"] == name] for name in names}
    cells = []
    for name in names:
        job = first[name]
        cells.append(
            {
                "cell": name,
                "settings": job.cell.settings,
                "differs": config_json.differences(first[question.baseline].cell.config, job.cell.config),
                "params": sizes[name].params,
                "flops": sizes[name].flops,
                **_cell(by_cell[name], speeds.cells[name] if speeds else None),
            }
        )
    comparisons = _comparisons(by_cell, question)
    found = {
        "format": FORMAT,
        "command": shlex.join(["python", "-m", "jattn", *about["argv"]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions() | {m.__name__: m.__version__ for m in (np, optax, scipy)},
        **{name: value for name, value in about.items() if name != "argv"},
        "measure": question.measure,
        "higher_is_better": question.higher,
        "baseline": question.baseline,
        "curve": f"valid/{question.curve}",
        "threshold": threshold,
        "threshold_is": "given" if question.threshold is not None else "which every run of the baseline reached",
        "speeds": {"rounds": ROUNDS, "machine": dict(speeds.machine)} if speeds else None,
        "cells": cells,
        "comparisons": comparisons,
        "origins": [json.loads(origin) for origin in origins],
        "runs": rows,
    }
    return found | {"notes": [*about.get("notes", ()), *notes.of(found)]}


def _checked(outcome: Outcome, measure: str) -> Outcome:
    """A run whose measure is not finite has failed too."""
    value = outcome.measures.get(measure, 0.0)
    if outcome.failure or math.isfinite(value):
        return outcome
    return dataclasses.replace(outcome, failure=f"its {measure} is {value}")


def _origin(outcome: Outcome) -> str:
    """What made a run, as JSON: nearly always the same of all."""
    return json.dumps({name: outcome.record.get(name) for name in ORIGIN})


def _run(outcome: Outcome, found: course.Course | None, threshold: float | None, higher: bool) -> dict[str, Any]:
    job = outcome.job
    row: dict[str, Any] = {
        "cell": job.cell.name,
        "seed": job.seed,
        "failure": outcome.failure,
        "measures": dict(outcome.measures),
        "step": outcome.step,
        "steps_to_threshold": None,
        "seconds_to_threshold": None,
        "area": None,
        "steps_per_second": None,
        "peak_memory_bytes": None,
        "folder": str(job.folder),
        "command": shlex.join(["python", "train.py", *job.train_flags()]),
        "config_hash": config_json.config_hash(job.config),
        "seconds": outcome.record.get("seconds"),
        "curve": None,
    }
    if found is None:
        return row
    reached = None if threshold is None else course.steps_to(found, threshold, higher)
    rate = found.steps_per_second
    return row | {
        "steps_to_threshold": reached,
        "seconds_to_threshold": None if reached is None or rate is None else reached / rate,
        "area": course.area(found),
        "curve": {"steps": list(found.steps), "values": list(found.values)},
        "steps_per_second": rate,
        "peak_memory_bytes": found.peak_memory_bytes,
    }


def _cell(rows: Sequence[Mapping[str, Any]], speed: Speed | None) -> dict[str, Any]:
    finished = [row for row in rows if not row["failure"]]
    measures = list(dict.fromkeys(name for row in finished for name in row["measures"]))

    def numbers(name: str) -> list[float]:
        return [row[name] for row in finished if row[name] is not None]

    def median(name: str) -> float | None:
        return float(np.median(numbers(name))) if numbers(name) else None

    steps, seconds = median("steps_to_threshold"), median("seconds_to_threshold")
    if speed is not None:
        rate = speed.steps_per_second
        seconds = None if steps is None or rate is None else steps / rate
    else:
        seen = numbers("steps_per_second")
        quartiles = tuple(map(float, np.quantile(seen, (0.25, 0.75)))) if seen else None
        speed = Speed(median("steps_per_second"), quartiles, max(numbers("peak_memory_bytes"), default=None))
    return {
        "runs": len(rows),
        "failed": {row["seed"]: row["failure"] for row in rows if row["failure"]},
        "measures": {name: _summary([row["measures"][name] for row in finished]) for name in measures},
        "reached_threshold": len(numbers("steps_to_threshold")),
        "steps_to_threshold": steps,
        "seconds_to_threshold": seconds,
        "area": _summary(numbers("area")),
        "steps_per_second": speed.steps_per_second,
        "steps_per_second_quartiles": speed.quartiles,
        "peak_memory_bytes": speed.peak_memory_bytes,
        "speed_error": speed.error,
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    finite = [value for value in values if math.isfinite(value)]  # a perplexity may be too large for a number
    return dataclasses.asdict(statistics.summary(finite)) | {"values": list(values)}


def _comparisons(by_cell: Mapping[str, Sequence[Mapping[str, Any]]], question: Question) -> list[dict[str, Any]]:
    """Each cell with the baseline: seeds that both finished as pairs, and all finished runs as two samples."""
    values = {
        name: {row["seed"]: row["measures"][question.measure] for row in rows if not row["failure"]}
        for name, rows in by_cell.items()
    }
    base = values.pop(question.baseline)
    pairs = {name: {seed: (own[seed], base[seed]) for seed in own if seed in base} for name, own in values.items()}
    made = {
        name: {
            "paired": statistics.paired([x for x, _ in pairs[name].values()], [y for _, y in pairs[name].values()]),
            "unpaired": statistics.unpaired(list(own.values()), list(base.values())),
        }
        for name, own in values.items()
    }
    corrected = {
        "paired": statistics.corrected_together(
            {name: {seed: x - y for seed, (x, y) in both.items()} for name, both in pairs.items()}
        ),
        "unpaired": statistics.holm({name: kinds["unpaired"].p_value for name, kinds in made.items()}),
    }
    return [
        {
            "cell": name,
            **{kind: dataclasses.asdict(d) | {"p_corrected": corrected[kind][name]} for kind, d in kinds.items()},
            "verdict": _verdict(kinds["paired"], corrected["paired"][name], question.higher),
        }
        for name, kinds in made.items()
    ]


def _verdict(found: statistics.Difference, p: float | None, higher: bool) -> str:
    if p is None:
        return NOT_TESTED
    if p > statistics.LEVEL:
        return NONE_SHOWN
    return BETTER if (found.difference > 0) == higher else WORSE
