"""What a reader of a comparison's numbers has to know besides."""

import json
from collections.abc import Mapping
from typing import Any

from jattn.compare import statistics


def of(report: Mapping[str, Any]) -> list[str]:
    """Sentences about what `report.build` returns, none where all is well."""
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
    for *names, last in _agreeing(report):
        notes.append(
            f"{', '.join(names)} and {last} agree in every measure of every run to the last digit: they compute the "
            "same function here, or the axis has no effect"
        )
    for cell in report["cells"]:
        reasons: dict[str, list[str]] = {}
        for seed, failure in cell["failed"].items():
            reasons.setdefault(failure, []).append(str(seed))
        for failure, seeds in reasons.items():
            notes.append(f"{cell['cell']}: seed {', '.join(seeds)} failed ({failure}) and is in no mean or test")
        if cell["speed_error"]:
            notes.append(f"{cell['cell']}: its training step could not be timed ({cell['speed_error']})")
    for name, what in (("commit", "states of the code"), ("machine", "machines"), ("versions", "sets of versions")):
        found = {json.dumps(origin[name], sort_keys=True) for origin in report["origins"] if origin[name] is not None}
        if len(found) > 1:
            notes.append(f"the runs were made by {len(found)} different {what}: see what each run says")
    return notes


def _agreeing(report: Mapping[str, Any]) -> list[list[str]]:
    """Groups of cells whose runs, two or more and none failed, have the same measures.

    One measure is not enough: accuracies may all be 100 %.
    """
    groups: dict[str, list[str]] = {}
    for cell in report["cells"]:
        if cell["runs"] > 1 and not cell["failed"]:
            measured = [row["measures"] for row in report["runs"] if row["cell"] == cell["cell"]]
            groups.setdefault(json.dumps(measured), []).append(cell["cell"])
    return [names for names in groups.values() if len(names) > 1]
