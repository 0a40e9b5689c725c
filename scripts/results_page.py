"""Writes docs/results.md from the comparisons in docs/results/.

    python scripts/results_page.py                # the page again
    python scripts/results_page.py --runs=runs    # copies first what `python -m jattn compare` left in runs/digits, ...

A comparison's folder holds comparison.json, its tables, its pictures, and the page of `python -m jattn report`. The
runs themselves are not kept: the page says which command makes them. tests/test_results_page.py sees that the page is
made of these files.
"""

import argparse
import ast
import json
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jattn.compare import files  # noqa: E402
from jattn.compare.report import BETTER, NONE_SHOWN, NOT_TESTED, WORSE  # noqa: E402
from jattn.compare.statistics import LEVEL  # noqa: E402
from jattn.compare.table import number, unit  # noqa: E402
from jattn.training.progress import duration  # noqa: E402

Report = Mapping[str, Any]

FOLDER = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
HTML = "report.html"
KEPT = (files.JSON, files.CELLS, files.RUNS, "*.png", HTML)

TITLES = {
    "digits": "Pictures: handwritten digits",
    "python_docs": "Language: the Python documentation, by bytes",
    "mqar": "Recall: multi-query associative recall",
    "listops": "Hierarchy: ListOps",
}
"""Of each comparison, in the order of the page."""

REMARKS = {
    "mqar": "Runs of this task are of two kinds: some have found how to look up a key when the budget ends, some have "
    "not, and little lies between. Softmax has both kinds, by the seed, so that the mean tells how often more than how "
    "well, and a paired test against it shows little: read the curves, and each seed's value in "
    "[runs.csv](results/mqar/runs.csv).",
}
"""What is to be known to read a comparison's numbers."""

ABOUT = """\
# Results

Every mechanism of jattn on small tasks, each against softmax attention. Made by `python scripts/results_page.py` from
the files in `docs/results/`, which `python -m jattn compare` wrote. [comparing.md](comparing.md) says what is equal in
a comparison, how differences are tested, and how large a difference has to be to be seen.

What these comparisons show, and what they do not:

* All mechanisms of a comparison have the same model around them, data order, optimizer, learning rate and number of
  steps. **Nothing was tuned for any of them**, and what suits one may not suit another. Numbers of parameters differ
  and are in the tables.
* Models and budgets are small: they say what is learned in a few hundred steps, not what is reached in the end, nor
  what happens at a larger size. Options of the mechanisms are those of the config files.
* A verdict is about the difference to softmax on this task, tested over seeds (initial values, order of the data), with
  p corrected for the number of mechanisms. It says nothing of other data, nor of two mechanisms beside softmax: the
  tables are in the order of `jattn.attention.MECHANISMS` and are **no ranking**.
* "No difference shown" does not mean equal. The interval says what difference there may be.
"""


def main() -> None:
    """Copies what is asked for, then writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=pathlib.Path, help="folder of the comparisons' folders, to be copied from")
    args = parser.parse_args()
    if args.runs is not None:
        for name in TITLES:
            copy(args.runs / name, FOLDER / name)
    PAGE.write_text(page(read(FOLDER)))


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the files of a comparison, without its runs; does nothing if there is none."""
    if not (source / files.JSON).exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    for pattern in KEPT:
        for path in source.glob(pattern):
            shutil.copy(path, target)


def read(folder: pathlib.Path) -> dict[str, Report]:
    """The comparisons that there are, by name."""
    there = [name for name in TITLES if (folder / name / files.JSON).exists()]
    return {name: json.loads((folder / name / files.JSON).read_text()) for name in there}


def page(reports: Mapping[str, Report]) -> str:
    """The whole page."""
    return "\n".join([ABOUT, *(section(name, report) for name, report in reports.items())])


def section(name: str, report: Report) -> str:
    """One comparison: what was run, what it showed, tables, pictures."""
    lines = [f"## {TITLES[name]}", "", "```", report["command"], "```", "", run(report), "", shown(report), ""]
    if name in REMARKS:
        lines += [REMARKS[name], ""]
    lines += [*table(report), ""]
    lines += [f"* {note}" for note in report["notes"]]
    if (FOLDER / name / HTML).exists():
        lines += [
            "",
            f"To sort, filter, and look at maps of attention, open [{HTML}](results/{name}/{HTML}) in a browser.",
        ]
    lines += ["", *(f"![{text}](results/{name}/{picture}.png)" for picture, text in pictures(report).items()), ""]
    return "\n".join(lines)


def run(report: Report) -> str:
    """How many runs there were, how long, on what."""
    made_by = [origin["machine"] for origin in report["origins"]]
    machines = {f"{m['cores']} core{'' if m['cores'] == 1 else 's'} of {m['processor']}" for m in made_by}
    commits = {origin["commit"]["hash"][:8] for origin in report["origins"]}
    seconds = sum(row["seconds"] or 0.0 for row in report["runs"])  # a process that was killed recorded none
    steps = " to ".join(
        f"{steps:,}" for steps in sorted({min(report["steps"].values()), max(report["steps"].values())})
    )
    speeds = (
        "timed one by one, in turn, when the runs were done" if report["speeds"] else "those of the runs as they ran"
    )
    return (
        f"{len(report['cells'])} mechanisms, {len(report['seeds'])} seeds, {steps} steps each: {len(report['runs'])} "
        f"runs, {duration(seconds)} of run time in all, each on {' or '.join(sorted(machines))}, at commit "
        f"{', '.join(sorted(commits))}, jax {report['versions']['jax']}, {report['date'][:10]}. Evaluated on the "
        f"{report['split']} split with the {report['checkpoint']} checkpoint. Speeds are {speeds}."
    )


def shown(report: Report) -> str:
    """The verdicts, in sentences."""
    by_verdict: dict[str, list[str]] = {}
    for found in report["comparisons"]:
        by_verdict.setdefault(found["verdict"], []).append(f"`{found['cell']}`")
    words = {BETTER: "Better", WORSE: "Worse", NONE_SHOWN: "No difference shown", NOT_TESTED: "Not tested"}
    parts = [f"{words[v]}: {', '.join(by_verdict[v])}." for v in words if v in by_verdict]
    measure = report["measure"].replace("_", " ")
    return f"Against `{report['baseline']}`, by {measure} (p at most {LEVEL}): {' '.join(parts)}"


def table(report: Report) -> list[str]:
    """A row a mechanism."""
    sign, factor = unit(report["measure"])
    measure = report["measure"].replace("_", " ") + (f", {sign}" if sign else "")
    head = ("mechanism", "options", f"{measure}: mean ± s.e.", f"difference to {report['baseline']}", "95 % interval")
    head += ("p", "verdict", "parameters", "steps/s (middle half)", "peak MB")
    rows = [head, ("---",) * len(head)]
    by_cell = {found["cell"]: found for found in report["comparisons"]}
    for cell in report["cells"]:
        found = by_cell.get(cell["cell"])
        rows.append(
            (
                f"`{cell['cell']}`",
                options(cell),
                mean(cell, report["measure"], factor),
                *(compared(found, factor) if found else ("", "", "", "baseline")),
                f"{cell['params']:,}",
                speed(cell),
                "" if cell["peak_memory_bytes"] is None else f"{cell['peak_memory_bytes'] / 1e6:,.0f}",
            )
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def options(cell: Mapping[str, Any]) -> str:
    """The mechanism's own, where they are not its defaults."""
    name = "model.attention.options: "
    changed = next((text for text in cell["differs"] if text.startswith(name)), None)
    return "" if changed is None else f"`{ast.literal_eval(changed.rpartition(' -> ')[2])}`"


def mean(cell: Mapping[str, Any], measure: str, factor: float) -> str:
    """Of the runs that finished, and how many failed."""
    found = cell["measures"].get(measure)
    failed = f" ({len(cell['failed'])} failed)" if cell["failed"] else ""
    if not found or found["mean"] is None:
        return f"none{failed}"
    error = "" if found["standard_error"] is None else f" ± {factor * found['standard_error']:.2g}"
    return f"{factor * found['mean']:.4g}{error}{failed}"


def compared(found: Mapping[str, Any], factor: float) -> tuple[str, str, str, str]:
    """Difference, interval, p, verdict."""
    paired = found["paired"]
    interval = " to ".join(number(end, factor, sign=True) for end in paired["interval"] or ())
    p = "" if paired["p_corrected"] is None else f"{paired['p_corrected']:.2g}"
    return number(paired["difference"], factor, sign=True), interval, p, found["verdict"]


def speed(cell: Mapping[str, Any]) -> str:
    """The median, and the middle half."""
    if cell["steps_per_second"] is None:
        return ""
    slow, fast = cell["steps_per_second_quartiles"]
    return f"{cell['steps_per_second']:.3g} ({slow:.3g} to {fast:.3g})"


def pictures(report: Report) -> dict[str, str]:
    """Names of the pictures, and what they show."""
    measure = report["measure"].replace("_", " ")
    return {
        "differences": f"Differences of {measure} to {report['baseline']}, with intervals, each seed as a tick",
        "curves": f"{report['curve'].rpartition('/')[2]} in validation over the steps, a panel a mechanism",
        "speed": f"Steps a second against {measure}",
    }


if __name__ == "__main__":
    main()
