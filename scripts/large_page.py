"""How fast a large page of `python -m jattn report` is: 50 runs, 12 layers of 12 heads each, made of random numbers.

    python scripts/large_page.py PAGE.html

writes the page, opens it in Chromium (as tests/report/test_browser.py does), and prints the seconds until plots and
maps are drawn, and the median milliseconds from a choice until it is drawn.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from jattn.report import page
from jattn.report.attention import BYTES, STATISTICS
from jattn.report.packing import packed, quantized
from jattn.report.shown import Cell, Shown

RUNS, LAYERS, HEADS, TOKENS, POINTS, REPEATS = 50, 12, 12, 64, 200, 20

LOGGED = ("entropy", "keys", "distance", "largest", "first", "diagonal", "sparsity", "energy", "energy spread")

CHOICES = {
    "head": ("Head", [str(i) for i in range(1, HEADS)]),
    "layer": ("Layer", [str(i) for i in range(1, LAYERS)]),
    "run": ("Cell", [str(i) for i in range(1, RUNS)]),
    "statistic": ("Heads by", list(STATISTICS.values())),
}

DRAWN = """([label, value]) => new Promise(resolve => {
  const select = document.querySelector(`[data-panel=attention] select[aria-label="${label}"]`);
  let changed = null;
  const watch = new MutationObserver(() => { changed = performance.now(); });
  watch.observe(document.querySelector('[data-panel=attention]'), {subtree: true, childList: true, attributes: true});
  const start = performance.now();
  select.value = value;
  select.dispatchEvent(new Event('change'));
  const look = frame => {
    if (changed === null || performance.now() - changed < 100) return requestAnimationFrame(look);
    watch.disconnect();
    resolve(changed - start);
  };
  requestAnimationFrame(look);
})"""
"""Milliseconds from a choice to the last change of the page, after which nothing changed for 100."""


def main(path: Path) -> None:
    """Writes the page and measures it."""
    path.write_text(made(), encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        opened.goto(path.absolute().as_uri())
        print(f"opened: {time.perf_counter() - start:.2f} s")
        for panel in opened.locator("[data-panel]").all():
            start = time.perf_counter()
            panel.scroll_into_view_if_needed()
            opened.wait_for_function("panel => 'ready' in panel.dataset", arg=panel.element_handle())
            print(f"{panel.get_attribute('data-panel')}: {time.perf_counter() - start:.2f} s")
        for name, (label, values) in CHOICES.items():
            took = [opened.evaluate(DRAWN, [label, values[i % len(values)]]) for i in range(REPEATS)]
            print(f"another {name}: {statistics.median(took):.0f} ms")
        browser.close()


def made() -> str:
    """The text of the page."""
    rng = np.random.default_rng(0)
    names = [f"run{i}" for i in range(RUNS)]
    places = int((BYTES / RUNS / LAYERS / HEADS / 2) ** 0.5) - 1
    maps = {}
    for name in names:
        blocks = []
        for _ in range(LAYERS):
            parts, largest = quantized(rng.dirichlet(np.full(places, 0.2), (2, HEADS, places)))
            blocks += [parts.tobytes(), largest.tobytes()]
        maps[name] = packed(b"".join(blocks))
    steps = np.linspace(0, 1e5, POINTS)
    curve = lambda: {"x": steps, "y": 2 * np.exp(-steps / 3e4) + 0.05 * rng.normal(size=POINTS)}  # noqa: E731
    layers = [str(i) for i in range(LAYERS)]
    drawn = {
        "cells": names,
        "baseline": None,
        "measure": None,
        "curves": [{"title": t, "factor": 1, "cells": {n: curve() for n in names}} for t in ("loss", "accuracy")],
        "differences": [],
        "points": [],
        "dynamics": {s: {n: {i: curve() for i in layers} for n in names} for s in LOGGED},
        "attention": [
            {
                "cell": name,
                "seed": 0,
                "examples": "all",
                "layers": list(range(LAYERS)),
                "heads": [list(range(HEADS))] * LAYERS,
                "mechanisms": ["softmax"] * LAYERS,
                "tokens": places,
                "statistics": {s: rng.random((LAYERS, HEADS)) for s in STATISTICS.values()},
                "notes": [],
                "rollout": [rng.dirichlet(np.ones(places))],
            }
            for name in names
        ],
        "examples": {
            "all": {
                "kind": "language",
                "index": [0],
                "class_token": False,
                "averaged": 8,
                "lengths": [TOKENS],
                "texts": [[f"word{i} " for i in range(places)]],
            }
        },
    }
    cells = tuple(Cell(name, (), ()) for name in names)
    return page.written(Shown(cells, None, {}, {}, {}), drawn, maps, "python scripts/large_page.py", "no date")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
