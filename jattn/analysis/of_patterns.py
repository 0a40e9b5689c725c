"""`--what patterns`: how the heads of a trained model attend."""

from typing import Any

import numpy as np

from jattn.analysis import patterns, pictures, similarity
from jattn.analysis.observe import Observed, has_class_token, observe, texts_of_tokens
from jattn.analysis.report import Report, table
from jattn.analysis.rollout import over_picture, rollout
from jattn.analysis.selection import Selection
from jattn.models.layers import num_patches

COLUMNS = ("entropy", "keys", "distance", "diagonal", "first", "top_1", "top_4", "sparsity", "effective_rank", "spread")
DRAWN = ("entropy", "distance", "top_1", "diagonal", "stability")
SHOWN = 4
"""Examples of which the maps, and pictures or texts, are shown."""


def report(selection: Selection) -> Report:
    """The statistics of every head, its maps, how alike heads are, and what reaches the output."""
    (workdir,) = selection.workdirs
    trained = selection.open(workdir)
    experiment = trained.experiment
    seen = observe(
        experiment, trained.params, selection.split, selection.examples(experiment), selection.layers, selection.heads
    )
    found = [patterns.of_layer(weights, seen.real, seen.allowed) for weights in seen.weights]
    heads = similarity.between_heads(seen.weights, seen.real)
    layers = similarity.between_layers(seen.weights, seen.real)
    mechanisms = [str(experiment.model.mechanisms()[i]) for i in seen.layers]
    values: dict[str, Any] = {
        "workdir": str(workdir),
        "step": trained.step,
        "split": selection.split,
        "examples": seen.examples,
        "layers": [
            {"layer": i, "mechanism": mechanism, "heads": own, **statistics}
            for i, mechanism, own, statistics in zip(seen.layers, mechanisms, seen.heads, found, strict=True)
        ],
        "similarity_of_heads": heads,
        "similarity_of_layers": layers,
    }
    made = Report(values, arrays={f"layer_{i}": w for i, w in zip(seen.layers, seen.weights, strict=True)})
    title = f"{workdir}, step {trained.step}: attention to {len(seen.examples)} examples of the {selection.split} split"
    made.tables.append(
        table(title, ("layer", "mechanism", "head", *COLUMNS, "stability"), _rows(seen, mechanisms, found))
    )
    _draw(made, seen, found, heads, layers)
    if seen.whole and all(w.shape[-1] == w.shape[-2] for w in seen.weights):
        _roll(made, seen, experiment)
    else:
        made.notes.append("rollout follows all layers and heads: leave --layers and --heads out to get it")
    if not all(patterns.sums_to_one(weights, seen.real) for weights in seen.weights):
        made.notes.append(
            "the weights of some layers do not sum to 1 over the keys: statistics are those of their shares"
        )
    if len(seen.examples) == 1:
        made.notes.append("one example has no spread: spread is 0 and stability 1; choose more with --examples")
    return made


def _rows(seen: Observed, mechanisms: list[str], found: list[dict[str, np.ndarray]]) -> list[list[Any]]:
    return [
        [f"{layer}", mechanism if place == 0 else "", head, *(float(of[n][place]) for n in (*COLUMNS, "stability"))]
        for layer, mechanism, own, of in zip(seen.layers, mechanisms, seen.heads, found, strict=True)
        for place, head in enumerate(own)
    ]


def _draw(made: Report, seen: Observed, found: list[dict], heads: np.ndarray, layers: np.ndarray) -> None:
    means = [patterns.mean_map(weights, seen.real) for weights in seen.weights]
    made.figures["maps"] = pictures.heads_grid(means, seen.layers, seen.heads, f"mean over {len(seen.real)} examples")
    spreads = [patterns.spread(weights, seen.real) for weights in seen.weights]
    made.figures["spread"] = pictures.heads_grid(
        spreads, seen.layers, seen.heads, "standard deviation over examples", one_scale=True
    )
    for place, example in enumerate(seen.examples[:SHOWN]):
        one = [weights[place] for weights in seen.weights]
        made.figures[f"example{example}"] = pictures.heads_grid(one, seen.layers, seen.heads, f"example {example}")
    by_name = {patterns.TITLES[name]: [of[name] for of in found] for name in DRAWN}
    made.figures["heads"] = pictures.over_heads(by_name, seen.layers, seen.heads)
    names = [f"{i}.{h}" for i, own in zip(seen.layers, seen.heads, strict=True) for h in own]
    labels = {"CKA of heads (layer.head)": names, "CKA of layers": [str(i) for i in seen.layers]}
    made.figures["similarity"] = pictures.matrices(dict(zip(labels, (heads, layers), strict=True)), labels)
    by_position = [patterns.by_position(weights, seen.real, seen.allowed) for weights in seen.weights]
    panels = {
        f"{patterns.TITLES[name]}, mean over heads": {
            f"layer {i}": (range(of[name].shape[1]), of[name].mean(0))
            for i, of in zip(seen.layers, by_position, strict=True)
        }
        for name in ("entropy", "sparsity")
    }
    made.figures["position"] = pictures.lines(panels, "position of the query")


def _roll(made: Report, seen: Observed, experiment: Any) -> None:
    """What reaches the output: over pictures, or tokens coloured by it."""
    model, shown = experiment.model, slice(0, SHOWN)
    rolled = rollout([weights[shown] for weights in seen.weights])
    first = has_class_token(model)
    if model.kind == "image":
        height, width, _ = seen.inputs.shape[1:]
        grid = (height // model.patch_size, width // model.patch_size)
        assert grid[0] * grid[1] == num_patches((height, width), model.patch_size)
        relevance = over_picture(rolled, grid, first)
        made.values["rollout"] = relevance
        titles = [f"example {example}" for example in seen.examples[shown]]
        made.figures["rollout"] = pictures.over_pictures(seen.inputs[shown], relevance, titles)
        return
    passages = []
    for place, example in enumerate(seen.examples[shown]):
        real = seen.real[place]
        attending, whose = real, "its tokens attend to (mean over heads and queries)"
        if model.causal:
            read, what = rolled[place, -1], "of its last token"
            # The only one to see every token: a sum over queries favours tokens that more of them see, a mean over
            # those that see a token the last ones, which only their neighbours do.
            attending, whose = np.arange(len(real)) == len(real) - 1, "its last token attends to (mean over heads)"
        elif first:
            read, what = rolled[place, 0], "of its class token"
        else:
            read, what = rolled[place][real].mean(0), "of its tokens' mean"
        tokens = texts_of_tokens(experiment.dataset, seen.inputs[place])
        kept = real[1:] if first else real
        for heading, weights in [
            (f"example {example}: rollout {what}", read),
            *(
                (f"example {example}: layer {i}, what {whose}", patterns.shares(w[place])[:, attending].mean((0, 1)))
                for i, w in zip(seen.layers, seen.weights, strict=True)
            ),
        ]:
            weights = weights[1:] if first else weights
            passages.append((heading, [t for t, k in zip(tokens, kept, strict=True) if k], weights[kept]))
    made.pages["tokens"] = pictures.coloured_tokens("Tokens coloured by attention", passages)
