"""Curves of a run as a picture."""

from pathlib import Path

from jattn import figures
from jattn.training.metrics import read_csv


def plot_curves(metrics: Path, picture: Path) -> None:
    """Draws the loss and the accuracy over the steps, of training and validation, from a metrics.csv to a PNG."""
    from matplotlib.figure import Figure  # half a second that only the end of a run need wait for

    columns = read_csv(metrics)
    names = [name for name in ("loss", "accuracy") if f"train/{name}" in columns]
    figure = Figure(figsize=(5 * len(names), 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for part in ("train", "valid"):
            points = [
                (step, value)
                for step, value in zip(columns["step"], columns[f"{part}/{name}"], strict=True)
                if value is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), label=part, marker="." if len(points) < 50 else None)
        axes.set_xlabel("step")
        axes.set_ylabel(name)
        axes.legend()
    figures.save(figure, picture.parent, picture.stem)
