"""`--what dynamics`: the statistics of patterns at each checkpoint that a run has kept, and those in its log."""

from pathlib import Path

from jattn.analysis import patterns, pictures
from jattn.analysis.convergence import METRICS
from jattn.analysis.observe import observe
from jattn.analysis.report import Report, table
from jattn.analysis.selection import Selection
from jattn.config import Config
from jattn.errors import UserError
from jattn.training.checkpoint import Checkpoints
from jattn.training.metrics import read_csv
from jattn.training.run import read_config
from jattn.training.trained import open_trained

SHOWN = tuple(patterns.TITLES)
LOGGED = patterns.TITLES | {
    "largest": patterns.TITLES["top_1"],
    "energy": "energy, mean |score|",
    "energy_spread": "standard deviation of scores",
}
"""What axes say of statistics in the log."""


def report(selection: Selection) -> Report:
    """Each layer's statistics, means over its heads, at each step on the same examples; beside them the log.

    Raises:
      UserError: there is no checkpoint.
    """
    (workdir,) = selection.workdirs
    config: Config = read_config(workdir)
    places = Checkpoints(workdir / "checkpoints", config.checkpoint, warn=lambda text: None, read_only=True)
    steps = places.steps()
    if not steps:
        raise UserError(f"{places.folder} holds no checkpoint: train first, or give another --workdir")
    found, layers = [], []
    experiment = open_trained(workdir, steps[0]).experiment
    examples = selection.examples(experiment)
    for step in steps:
        params = open_trained(workdir, step, experiment=experiment).params
        seen = observe(experiment, params, selection.split, examples, selection.layers, selection.heads)
        layers = seen.layers
        found.append([patterns.of_layer(weights, seen.real, seen.allowed) for weights in seen.weights])
    values = {
        "workdir": str(workdir),
        "split": selection.split,
        "examples": examples,
        "steps": steps,
        "layers": {
            layer: {name: [of[place][name] for of in found] for name in found[0][place]}
            for place, layer in enumerate(layers)
        },
    }
    rows = [
        [str(step), layer, *(float(of[place][name].mean()) for name in SHOWN)]
        for step, of in zip(steps, found, strict=True)
        for place, layer in enumerate(layers)
    ]
    made = Report(values, tables=[table("Mean over heads", ("step", "layer", *SHOWN), rows)])
    made.figures["steps"] = pictures.lines(
        {
            patterns.TITLES[name]: {
                f"layer {layer}": (steps, [of[p][name].mean() for of in found]) for p, layer in enumerate(layers)
            }
            for name in SHOWN
        },
        "step",
    )
    if log := logged(workdir):
        made.values["log"] = log
        panels = {
            LOGGED.get(name, name): {f"layer {layer}": (of["step"], of["value"]) for layer, of in layers.items()}
            for name, layers in log.items()
        }
        made.figures["log"] = pictures.lines(panels, "step")
    elif config.logging.attention_every is None:
        made.notes.append("--config.logging.attention_every=100 logs these statistics while a run is trained")
    else:
        made.notes.append(
            "the log has none of these: no layer of the model reports statistics of scores while it trains"
        )
    if len(steps) < 3:
        made.notes.append(
            f"the run has kept {len(steps)} checkpoints: train with a larger --config.checkpoint.keep to see more"
        )
    return made


def logged(workdir: Path) -> dict[str, dict[str, dict[str, list[float]]]]:
    """What `jattn.training.attention_log` wrote: statistic -> layer -> step and value; empty if nothing."""
    path = workdir / METRICS
    columns = read_csv(path) if path.exists() and path.stat().st_size else {}
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for column, values in columns.items():
        if column.startswith("attention/block_"):
            _, block, name = column.split("/")
            points = [(s, v) for s, v in zip(columns["step"], values, strict=True) if v is not None]
            if points:
                steps, numbers = map(list, zip(*points, strict=True))
                found.setdefault(name, {})[block.removeprefix("block_")] = {"step": steps, "value": numbers}
    return found
