"""`--what dynamics`: the statistics of patterns at each checkpoint that a run has kept."""

from jattn.analysis import patterns, pictures
from jattn.analysis.observe import observe
from jattn.analysis.report import Report, table
from jattn.analysis.selection import Selection
from jattn.config import Config
from jattn.errors import UserError
from jattn.training.checkpoint import Checkpoints
from jattn.training.run import read_config
from jattn.training.trained import open_trained

SHOWN = ("entropy", "keys", "distance", "diagonal", "first", "top_1", "sparsity", "effective_rank", "stability")


def report(selection: Selection) -> Report:
    """Each layer's statistics, means over its heads, at each step on the same examples.

    Raises:
      UserError: there is no checkpoint, or one was asked for.
    """
    (workdir,) = selection.workdirs
    if selection.checkpoint != "best":
        raise UserError("--what=dynamics looks at every checkpoint of the run: leave --checkpoint out")
    config: Config = read_config(workdir)
    places = Checkpoints(workdir / "checkpoints", config.checkpoint, warn=lambda text: None, read_only=True)
    steps = places.steps()
    if not steps:
        raise UserError(f"{places.folder} holds no checkpoint: train first, or give another --workdir")
    found, layers, examples = [], [], None
    for step in steps:
        trained = open_trained(workdir, step)
        examples = selection.examples(trained.experiment)
        seen = observe(trained.experiment, trained.params, selection.split, examples, selection.layers, selection.heads)
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
            name: {f"layer {layer}": (steps, [of[p][name].mean() for of in found]) for p, layer in enumerate(layers)}
            for name in SHOWN
        },
        "step",
    )
    if len(steps) < 3:
        made.notes.append(
            f"the run has kept {len(steps)} checkpoints: train with a larger --config.checkpoint.keep to see more"
        )
    return made
