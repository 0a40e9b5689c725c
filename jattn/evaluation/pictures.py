"""Results as pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from jattn import figures
from jattn.training.run import explained

CALIBRATION, CONFUSION = "calibration", "confusion"


def draw(results: dict[str, Any], workdir: Path | str) -> list[Path]:
    """Draws what `evaluate` returned into the folder of the run, as far as it is there; returns the files.

    calibration.png: the accuracy of predictions over their confidence, and how many there are of each.
    confusion.png: the confusion matrix, each row in shares of its class.

    Raises:
      UserError: the folder cannot be written to.
    """
    from matplotlib.figure import Figure  # half a second that nothing else need wait for

    drawn = {}
    if "calibration" in results:
        drawn[CALIBRATION] = _calibration(Figure(figsize=(5, 5), layout="constrained"), results["calibration"])
    if "confusion" in results.get("classes", {}):
        drawn[CONFUSION] = _confusion(Figure(figsize=(6, 5), layout="constrained"), results["classes"]["confusion"])
    with explained(Path(workdir)):
        for name, figure in drawn.items():
            figures.save(figure, Path(workdir), name)
    return [Path(workdir) / f"{name}.png" for name in drawn]


def _calibration(figure: Any, found: dict[str, Any]) -> Any:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = [b for b in found["bins"] if b["predictions"]]
    edges = {"x": [b["from"] for b in bins], "width": [b["to"] - b["from"] for b in bins], "align": "edge"}
    above.bar(height=[b["accuracy"] for b in bins], edgecolor="white", **edges)
    above.plot([0, 1], [0, 1], color="grey", linestyle="--")
    above.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o", color="black")
    error = found["expected_calibration_error"]
    above.set(ylabel="accuracy", ylim=(0, 1), title="" if error is None else f"expected calibration error {error:.2%}")
    below.bar(height=[b["predictions"] for b in bins], edgecolor="white", **edges)
    below.set(xlabel="confidence", ylabel="predictions", xlim=(0, 1))
    return figure


def _confusion(figure: Any, confusion: list[list[float | int]]) -> Any:
    counts = np.asarray(confusion, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="Blues"), label="share of the true class")
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(counts) <= 20:
        axes.set(xticks=range(len(counts)), yticks=range(len(counts)))
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=7)
    return figure
