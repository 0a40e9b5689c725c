"""What is drawn of a comparison, read off the figures."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from jattn.compare import pictures, statistics
from jattn.compare.report import BASELINE, BETTER, NONE_SHOWN, NOT_TESTED, WORSE

VALUES = {"base": [0.5, 0.6, 0.7], "good": [0.7, 0.8, 0.9], "like": [0.52, 0.58, 0.7], "failing": [0.4, None, None]}
VERDICTS = {"good": BETTER, "like": NONE_SHOWN, "failing": NOT_TESTED}


def report(values=VALUES, verdicts=VERDICTS, **further):
    def measured(name):
        found = statistics.summary([value for value in values[name] if value is not None])
        return {"mean": found.mean, "interval": found.interval}

    def compared(name):
        both = [(x, y) for x, y in zip(values[name], values["base"], strict=True) if x is not None]
        found = statistics.paired(*(zip(*both, strict=True) if both else ([], [])))
        paired = {"difference": found.difference, "interval": found.interval, "p_corrected": found.p_value}
        return {"cell": name, "paired": paired, "verdict": verdicts[name]}

    def run(name, seed, value):
        curve = {"steps": [2, 4], "values": [value / 2, value]} if value is not None else None
        failure = "" if value is not None else "why"
        return {"cell": name, "seed": seed, "failure": failure, "measures": {"accuracy": value}, "curve": curve}

    speeds = dict(zip(values, (10.0, 20.0, 40.0, 80.0), strict=False))
    return {
        "measure": "accuracy",
        "higher_is_better": True,
        "curve": "valid/accuracy",
        "split": "test",
        "baseline": "base",
        "seeds": [0, 1, 2],
        "speeds": None,
        "cells": [
            {
                "cell": name,
                "measures": {"accuracy": measured(name)},
                "steps_per_second": speeds[name],
                "steps_per_second_quartiles": (0.9 * speeds[name], 1.2 * speeds[name]),
            }
            for name in values
        ],
        "comparisons": [compared(name) for name in values if name != "base"],
        "runs": [run(name, seed, value) for name, of in values.items() for seed, value in enumerate(of)],
    } | further


def test_differences_with_the_best_on_top():
    (axes,) = pictures.differences(report()).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["failing", "like", "good"]
    drawn = [(line.get_marker(), line.get_xdata(), line.get_ydata()) for line in axes.lines]
    ticks = [np.round(np.sort(x), 9).tolist() for marker, x, _ in drawn if marker == "|"]
    assert ticks == [[-10.0], [-2.0, 0.0, 2.0], [20.0, 20.0, 20.0]]  # percent; of `failing` the seed that it has
    means = {marker: float(np.ravel(x)[0]) for marker, x, _ in drawn if marker in "^ox"}
    assert means == pytest.approx({"^": 20.0, "o": 0.0, "x": -10.0})
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["−10", "0,  p = 1", "+20,  p = 0.25", "difference, corrected p"]
    assert axes.get_xlabel() == "test accuracy, %: difference to base (better: to the right)"
    reverse = pictures.differences(report(higher_is_better=False)).axes[0]
    assert [label.get_text() for label in reverse.get_yticklabels()] == ["good", "like", "failing"]


def test_curves_are_means_with_all_seeds_around():
    panels = [axes for axes in pictures.curves(report()).axes if axes.lines]
    assert [axes.get_title() for axes in panels] == ["base", "good", "like", "failing"]
    own, baseline = panels[1].lines
    assert own.get_xdata().tolist() == [2, 4]
    assert own.get_ydata() == pytest.approx([40.0, 80.0])
    assert baseline.get_ydata() == pytest.approx([30.0, 60.0])
    (band,) = panels[1].collections
    assert set(np.round(band.get_paths()[0].vertices[:, 1], 9)) == {35.0, 45.0, 70.0, 90.0}
    assert len(panels[0].lines) == 1
    odd = report()
    odd["runs"][0]["curve"] = {"steps": [4, 6], "values": [0.5, 0.5]}
    assert pictures.curves(odd).axes[0].lines[0].get_xdata().tolist() == [4]  # what all of them have


def test_speed_and_quality_with_their_spreads():
    (axes,) = pictures.speed(report()).axes
    assert axes.get_xscale() == "log"  # 10 to 80 steps a second
    points = {bar.lines[0].get_marker(): [float(x[0]) for x in bar.lines[0].get_data()] for bar in axes.containers}
    assert points["s"] == pytest.approx([10.0, 60.0])
    assert points["^"] == pytest.approx([20.0, 80.0])
    across, _ = axes.containers[1].lines[2]
    assert across.get_segments()[0][:, 0] == pytest.approx([18.0, 24.0])
    assert sorted(text.get_text() for text in axes.texts) == sorted(VALUES)
    slow = report({name: VALUES[name] for name in ("base", "good")})
    assert pictures.speed(slow).axes[0].get_xscale() == "linear"


def test_names_do_not_cover_one_another():
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    points = rng.uniform(size=(15, 2))
    points[1] = points[0] + 0.01
    axes.plot(*points.T, "o")
    figure.draw_without_rendering()
    names = [f"mechanism_{index}" for index in range(15)]
    pictures._label(axes, np.stack([points, points - 0.02, points + 0.02], 1), names)
    boxes = [tuple(text.get_window_extent().extents) for text in axes.texts]
    shared = [pictures._overlap(one, other) for i, one in enumerate(boxes) for other in boxes[:i]]
    areas = [(right - left) * (top - bottom) for left, bottom, right, top in boxes]
    assert max(shared) < 0.1 * min(areas)
    within = tuple(axes.get_window_extent().extents)
    assert all(pictures._overlap(box, within) == pytest.approx(area) for box, area in zip(boxes, areas, strict=True))


def test_only_what_there_is_is_drawn(tmp_path):
    alone = report({"base": [0.5]}, seeds=[0])
    assert {path.name for path in pictures.draw(tmp_path, alone, ["png"])} == {"curves.png", "speed.png"}
    nothing = report({"base": [None], "good": [None]}, seeds=[0])
    assert pictures.draw(tmp_path, nothing, ["png", "svg"]) == []
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "speed.png"}


def test_every_verdict_has_a_look():
    assert set(pictures.LOOKS) == {BASELINE, BETTER, WORSE, NONE_SHOWN, NOT_TESTED}
    markers = [look["marker"] for look in pictures.LOOKS.values()]
    assert len(set(markers)) == len(markers)
