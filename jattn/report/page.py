"""The page: its text as HTML, and beside it what its programs draw."""

import html
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import bokeh

import jattn
from jattn import config_json
from jattn.compare.report import BETTER, NONE_SHOWN, WORSE
from jattn.report import tables
from jattn.report.packing import packed, packed_json
from jattn.report.shown import Comparison, Shown
from jattn.report.words import commit, count, number

SCRIPTS = ("start.js", "table.js", "plots.js", "maps.js", "attention.js", "main.js")
"""Ours, in the order in which they are joined to one program."""

LIBRARY = ("bokeh.min.js", "bokeh-api.min.js")
"""Bokeh's, which draw the plots."""


def written(shown: Shown, drawn: Mapping[str, Any], maps: Mapping[str, str], command: str, date: str) -> str:
    """The text of the page.

    Args:
      shown: what it is about.
      drawn: what its programs draw: see `jattn.report.drawn`.
      maps: cell -> the packed maps of its attention.
      command: that makes this page.
      date: when that was.
    """
    title, about = (_of_comparison if shown.comparison else _of_runs)(shown)
    parts = {
        "title": html.escape(title),
        "about": about,
        "results": tables.of_cells(shown.comparison) if shown.comparison else tables.of_runs(shown),
        "sections": _sections(shown, drawn),
        "reproduce": _reproduce(shown, command),
        "made": html.escape(f"Written by jattn {jattn.__version__} on {date}. Plots by Bokeh {bokeh.__version__}."),
        "style": _asset("page.css"),
        "library": _blocks("library", {name: packed(_library(name)) for name in LIBRARY}),
        "data": _blocks("data", _data(drawn)) + _blocks("maps", maps),
        "program": "\n".join(map(_asset, SCRIPTS)),
    }
    return string.Template(_asset("page.html")).substitute(parts)


def _data(drawn: Mapping[str, Any]) -> dict[str, str]:
    """What is drawn, packed; apart from the rest the courses of attention, most of a large page and far down in it."""
    rest = {name: value for name, value in drawn.items() if name != "dynamics"}
    return {"drawn": packed_json(rest), "dynamics": packed_json(drawn["dynamics"])}


def _asset(name: str) -> str:
    return resources.files("jattn.report").joinpath("assets", name).read_text(encoding="utf-8")


def _library(name: str) -> bytes:
    return (Path(bokeh.__file__).parent / "server" / "static" / "js" / name).read_bytes()


def _blocks(kind: str, contents: Mapping[str, str]) -> str:
    """Packed texts, of base64's letters only, which can hold no end of an element."""
    return "\n".join(
        f'<script type="text/plain" data-{kind}="{html.escape(name)}">{content}</script>'
        for name, content in contents.items()
    )


def _of_comparison(shown: Shown) -> tuple[str, str]:
    found: Comparison = shown.comparison
    measure = found["measure"].replace("_", " ")
    title = f"{Path(found['config']).stem.partition('.')[0]}: {measure} of {count(len(found['cells']), 'cell')}"
    lines = [_outcome(found), found["heading"]]
    facts = {
        "seeds": ", ".join(map(str, found["seeds"])),
        "budget": found["budget"],
        "sizes": f"matched by {found['match']}" if found["match"] else "as configured",
        "made on": "; ".join(dict.fromkeys(_machine(o["machine"]) for o in found["origins"] if o["machine"])),
        "commit": commit(found["commit"]),
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "date": found["date"],
    }
    return title, _paragraphs(lines) + _facts(facts) + _notes(found["notes"])


def _of_runs(shown: Shown) -> tuple[str, str]:
    names = [cell.name for cell in shown.cells]
    if len(names) > 1:
        return count(len(names), "run"), _paragraphs(["Laid over one another: " + ", ".join(names) + "."])
    (name,) = names
    config = shown.configs[name]
    model = config.model
    lead = f"{config.data.name}: {model.attention.name} in {model.depth} layers of {model.num_heads} heads"
    length = f"{config.steps:,} steps" if config.steps is not None else f"{config.epochs:g} epochs"
    facts = {
        "model": f"{model.name.replace('_', ' ')}, width {model.width}",
        "budget": f"{length}, batches of {config.data.batch_size}",
        "optimizer": f"{config.optim.name}, learning rate {config.optim.learning_rate:g}",
        "seed": str(config.seed),
        "config": config_json.config_hash(config),
    }
    return name, _paragraphs([lead]) + _facts(facts)


def _outcome(found: Comparison) -> str:
    """The verdicts in one sentence."""
    by_verdict: dict[str, list[str]] = {}
    for c in found["comparisons"]:
        by_verdict.setdefault(c["verdict"].partition(":")[0], []).append(c["cell"])
    if not by_verdict:
        return f"One cell, {found['baseline']}: there is nothing to compare it with."
    order = sorted(by_verdict, key=lambda v: [BETTER, WORSE, NONE_SHOWN].index(v) if v in tables.MARKS else 3)
    parts = []
    for verdict in order:
        cells = by_verdict[verdict]
        listed = ", ".join(cells) if verdict != NONE_SHOWN or len(cells) <= 3 else count(len(cells), "cell")
        parts.append(f"{verdict}: {listed}")
    return f"Against {found['baseline']} – {'; '.join(parts)}."


def _machine(machine: Mapping[str, Any]) -> str:
    return f"{machine['processor']}, {machine['device']} x {machine['devices']}, {count(machine['cores'], 'core')}"


def _paragraphs(lines: Sequence[str]) -> str:
    first, *rest = lines
    return f'<p class="lead">{html.escape(first)}</p>' + "".join(f"<p>{html.escape(line)}</p>" for line in rest)


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{name}</dt><dd>{html.escape(str(text))}</dd></div>" for name, text in facts.items())
    return f'<dl class="facts">{rows}</dl>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f'<div class="notes"><h3>To bear in mind</h3><ul>{_items(notes)}</ul></div>'


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{html.escape(text)}</li>" for text in texts)


def _sections(shown: Shown, drawn: Mapping[str, Any]) -> str:
    """Places that programs fill, where there is anything for them, and further tables."""
    parts = []

    def section(name: str, title: str, inside: str) -> None:
        parts.append(
            f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>\n{inside}'
        )
        parts.append("</section>")

    if drawn["differences"]:
        found = shown.comparison
        smallest = min((c["paired"]["smallest_p"] for c in found["comparisons"]), default=1.0)
        comparisons = count(len(found["comparisons"]), "comparison")
        text = (
            f"Mean over seeds of (cell − {found['baseline']}) with its 95 % bootstrap interval. Verdicts rest on a "
            f"paired permutation test corrected for {comparisons}; with so many seeds no p can be below "
            f"{number(smallest)}. A hollow point: no difference shown, which is no proof of equality; the interval "
            "says how large a difference would have been missed."
        )
        section("differences", f"Differences from {html.escape(found['baseline'])}", _text(text) + _plot("differences"))
    if drawn["curves"]:
        text = "Means over the runs of a cell; the band is a 95 % bootstrap interval of the mean over seeds."
        section("curves", "Curves", _text(text if shown.comparison else "") + _plot("curves"))
    if drawn["points"]:
        section("cost", "Quality against cost", _plot("cost"))
    if drawn["attention"]:
        section("attention", "Inside the attention", '<div class="panel" data-panel="attention"></div>')
    if drawn["dynamics"]:
        text = "What the runs logged of their attention while they were trained: means over heads, queries and runs."
        section("dynamics", "Attention over training", _text(text) + _plot("dynamics"))
    if shown.comparison:
        section("all-runs", "Runs", tables.of_runs(shown))
    if shown.options:
        title = "Configs" if len(shown.cells) > 1 else "Config, where it is not the default"
        section("options-section", title, tables.of_options(shown))
    return "\n".join(parts)


def _text(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""


def _plot(name: str) -> str:
    return f'<div class="panel" data-panel="{name}"></div>'


def _reproduce(shown: Shown, command: str) -> str:
    commands = {"This page": [command]}
    if shown.comparison:
        found = shown.comparison
        commands = {"The comparison": [found["command"]], **commands}
        commands["Each run"] = [row["command"] for row in found["runs"]]
    parts = []
    for name, lines in commands.items():
        code = html.escape("\n".join(lines))
        block = f'<div class="command" data-copy><pre tabindex="0"><code>{code}</code></pre></div>'
        if len(lines) > 3:
            block = f"<details><summary>{name}: {count(len(lines), 'command')}</summary>{block}</details>"
        else:
            block = f"<h3>{name}</h3>{block}"
        parts.append(block)
    return "\n".join(parts)
