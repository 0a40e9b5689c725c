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
from jattn.compare import course, statistics
from jattn.compare.matching import Size
from jattn.compare.runs import Outcome

FORMAT = 1

BASELINE, BETTER, WORSE, NONE_SHOWN, NOT_TESTED = (
    "baseline", "better", "worse", "no difference shown", "not tested: fewer than 2 pairs of finished runs",
)  # fmt: skip
"""Verdicts."""

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
    outcomes: Sequence[Outcome], sizes: Mapping[str, Size], question: Question, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole report.

    Args:
      outcomes: of all runs.
      sizes: of the cells' models, by name.
      question: what is asked.
      about: further entries for its head: how the runs were chosen.
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
    rows = [_run(outcome, courses.get(outcome.job.folder), threshold, question.higher) for outcome in outcomes]
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
                **_cell(by_cell[name]),
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
        "cells": cells,
        "comparisons": comparisons,
        "runs": rows,
    }
    return found | {"notes": [*about.get("notes", ()), *_notes(found)]}


def _checked(outcome: Outcome, measure: str) -> Outcome:
    """A run whose measure is not finite has failed too."""
    value = outcome.measures.get(measure, 0.0)
    if outcome.failure or math.isfinite(value):
        return outcome
    return dataclasses.replace(outcome, failure=f"its {measure} is {value}")


def _run(outcome: Outcome, found: course.Course | None, threshold: float | None, higher: bool) -> dict[str, Any]:
    job, record = outcome.job, outcome.record
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
        "commit": record.get("commit"),
        "machine": record.get("machine"),
        "versions": record.get("versions"),
        "seconds": record.get("seconds"),
    }
    if found is None:
        return row
    reached = None if threshold is None else course.steps_to(found, threshold, higher)
    rate = found.steps_per_second
    return row | {
        "steps_to_threshold": reached,
        "seconds_to_threshold": None if reached is None or rate is None else reached / rate,
        "area": course.area(found),
        "steps_per_second": rate,
        "peak_memory_bytes": found.peak_memory_bytes,
    }


def _cell(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    finished = [row for row in rows if not row["failure"]]
    measures = list(dict.fromkeys(name for row in finished for name in row["measures"]))

    def numbers(name: str) -> list[float]:
        return [row[name] for row in finished if row[name] is not None]

    def median(name: str) -> float | None:
        return float(np.median(numbers(name))) if numbers(name) else None

    return {
        "runs": len(rows),
        "failed": {row["seed"]: row["failure"] for row in rows if row["failure"]},
        "measures": {name: _summary([row["measures"][name] for row in finished]) for name in measures},
        "reached_threshold": len(numbers("steps_to_threshold")),
        "steps_to_threshold": median("steps_to_threshold"),
        "seconds_to_threshold": median("seconds_to_threshold"),
        "area": _summary(numbers("area")),
        "steps_per_second": median("steps_per_second"),
        "peak_memory_bytes": max(numbers("peak_memory_bytes"), default=None),
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


def _notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers has to know besides."""
    notes = []
    tested = [c for c in report["comparisons"] if c["paired"]["p_value"] is not None]
    if tested:
        pairs = min(c["paired"]["counts"][0] for c in tested)
        if pairs < statistics.FEWEST_PAIRS:
            least = max(c["paired"]["smallest_p"] for c in tested)
            notes.append(
                f"{pairs} pairs of runs cannot show p < {least:.3g}, however large the difference: at least "
                f"{statistics.FEWEST_PAIRS} seeds can show p < {statistics.LEVEL}"
            )
    for c in tested:
        if c["paired"]["difference"] == 0 and c["paired"]["standard_error"] == 0:
            notes.append(
                f"{c['cell']} and {report['baseline']} agree in every run to the last digit: they compute the same "
                "function here, or the axis has no effect"
            )
    for cell in report["cells"]:
        reasons: dict[str, list[str]] = {}
        for seed, failure in cell["failed"].items():
            reasons.setdefault(failure, []).append(str(seed))
        for failure, seeds in reasons.items():
            notes.append(f"{cell['cell']}: seed {', '.join(seeds)} failed ({failure}) and is in no mean or test")
    for name, what in (("commit", "states of the code"), ("machine", "machines"), ("versions", "sets of versions")):
        found = {json.dumps(row[name], sort_keys=True) for row in report["runs"] if row[name] is not None}
        if len(found) > 1:
            notes.append(f"the runs were made by {len(found)} different {what}: see what each run says")
    return notes
