"""`python -m jattn bench report FILE...`: tables and plots of what benchmarks wrote, and what changed between files.

    python -m jattn bench report new.json --markdown
    python -m jattn bench report new.json --plots plots          time and scratch memory against length, log-log
    python -m jattn bench report old.json new.json               every further file against the first

A row has changed where the quartiles of the two files do not overlap.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from jattn.bench import plots, results, table
from jattn.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE", help="what --out of a benchmark wrote")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown instead")
    parser.add_argument("--plots", type=pathlib.Path, metavar="FOLDER", help="draws time and memory against length")


def run(args: argparse.Namespace) -> None:
    """Prints the tables and comparisons, draws the plots.

    Raises:
      UserError: a file is not what a benchmark wrote, or nothing in it can be drawn.
    """
    files = [results.read(path) for path in args.files]
    console = table.console()
    for path, result in zip(args.files, files, strict=True):
        _say(console, args.markdown, f"{path}: {origin(result)}")
        if args.markdown:
            print(table.markdown(result["rows"]))
        else:
            table.show(console, result["benchmark"], result["rows"])
        if args.plots is not None:
            for drawn in plots.draw(result["rows"], args.plots, path.stem):
                _say(console, args.markdown, f"drawn: {drawn}")
    for path, result in zip(args.files[1:], files[1:], strict=True):
        changes = compare(files[0], result)
        for line in different_conditions(files[0], result):
            _say(console, args.markdown, f"{args.files[0]} and {path} differ in {line}")
        _show_changes(console, args.markdown, f"{path} against {args.files[0]}", changes)


def origin(result: Mapping[str, Any]) -> str:
    """Where and from what a file's figures are, in a line."""
    machine, versions = result["machine"], result["versions"]
    commit = "no repository"
    if result["commit"] is not None:
        commit = f"commit {result['commit']['hash'][:12]}" + (" with changes" if result["commit"]["dirty"] else "")
    used = ", ".join(f"{name} {versions[name]}" for name in ("jax", "torch") if name in versions)
    return f"{result['date']}, {commit}, {used}, {machine['processor']}, {machine['cores']} cores, {machine['device']}"


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that both files have, matched by case: times of the new one over the old one's.

    Each has `case`, `ratio` of the medians, its bounds `low` and `high` (lower quartile over upper quartile, and the
    other way round), `scratch` (ratio, None where unknown) and `changed`: the bounds lie on one side of 1. A row that
    failed in either file has `error` instead.

    Raises:
      UserError: they are of different benchmarks, or have no row in common.
    """
    if old["benchmark"] != new["benchmark"]:
        raise UserError(
            f"the files are of benchmarks {old['benchmark']} and {new['benchmark']}: compare two of one kind"
        )
    before = {_key(row): row for row in old["rows"]}
    changes = [_change(before[_key(row)], row) for row in new["rows"] if _key(row) in before]
    if not changes:
        raise UserError("the files have no row in common: measure the same cases with the same sizes")
    return changes


def different_conditions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What besides the code differs between two files: "jax (0.10.1, 0.10.2)"."""
    before, after = ({**result["machine"], **result["versions"]} for result in (old, new))
    names = {**before, **after}
    return [f"{name} ({before.get(name)}, {after.get(name)})" for name in names if before.get(name) != after.get(name)]


def _change(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    failed = [f"{name}: {row['error']}" for name, row in (("before", old), ("after", new)) if "error" in row]
    if failed:
        return {"case": new["case"], "error": "; ".join(failed)}
    (old_low, old_high), (new_low, new_high) = old["milliseconds_quartiles"], new["milliseconds_quartiles"]
    low, high = new_low / old_high, new_high / old_low
    scratch = new["scratch_bytes"] / old["scratch_bytes"] if old.get("scratch_bytes") else None
    return {
        "case": new["case"],
        "ratio": new["milliseconds"] / old["milliseconds"],
        "low": low,
        "high": high,
        "scratch": scratch,
        "changed": low > 1 or high < 1,
    }


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps(row["case"], sort_keys=True)


def _show_changes(console: Console, markdown: bool, title: str, changes: Sequence[Mapping[str, Any]]) -> None:
    names = list({name: None for change in changes for name in change["case"]})
    columns = [*names, "time, new / old", "scratch, new / old", ""]
    lines = [[*(str(change["case"].get(name, "")) for name in names), *_changed(change)] for change in changes]
    if markdown:
        print("\n".join(["| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *lines)]))
        return
    shown = Table(title=title)
    for column in columns:
        shown.add_column(column)
    for line in lines:
        shown.add_row(*line)
    console.print(shown)


def _changed(change: Mapping[str, Any]) -> list[str]:
    if "error" in change:
        return ["", "", change["error"]]
    word = "" if not change["changed"] else "SLOWER" if change["ratio"] > 1 else "faster"
    scratch = "" if change["scratch"] is None else f"{change['scratch']:.2f}"
    return [f"{change['ratio']:.2f} ({change['low']:.2f} to {change['high']:.2f})", scratch, word]


def _say(console: Console, markdown: bool, text: str) -> None:
    print(f"{text}\n") if markdown else console.print(text, highlight=False, soft_wrap=True)
