"""`--what adaptive`: what the heads of adaptive-span layers look at and the work that saves, of one run or several."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn.analysis import pictures
from jattn.analysis.convergence import names
from jattn.analysis.report import Report, table
from jattn.analysis.selection import Selection
from jattn.bench.timing import interleaved
from jattn.data import eval_batch
from jattn.errors import UserError
from jattn.evaluation.spans import spans
from jattn.evaluation.speed import speed
from jattn.training.setup import eval_batch_size
from jattn.training.trained import Trained
from jattn.types import PyTree

QUANTITIES = ("keys", "span", "removed")
UNBOUNDED = ("rotary", "sinusoidal", "sinusoidal_neural", "none")
"""Positions of a model that is not bound to the length of its training."""

REPEATS = 9
"""Of a forward pass of a given length."""

TITLES = {"keys": "unmasked keys", "span": "span, tokens", "removed": "share masked by the wave"}


def report(selection: Selection) -> Report:
    """Spans, periods, keys and saved work per layer and head, one figure for all arms, totals below.

    Raises:
      UserError: no run has a layer of adaptive span.
    """
    arms, opened = {}, {}
    for workdir, name in names(selection.workdirs).items():
        opened[name] = trained = selection.open(workdir, reads_data=selection.timed_batches > 0)
        arms[name] = of_run(workdir, trained)
        if selection.timed_batches and arms[name]["adaptive"]:
            arms[name]["totals"] |= time_saved(trained, selection.split, selection.timed_batches)
    if not any(arm["adaptive"] for arm in arms.values()):
        raise UserError(
            f"{', '.join(arms)} has no layer of adaptive span: train with --config.model.attention.name=adaptive_span"
        )
    rows, totals = [], []
    for name, arm in arms.items():
        for layer in arm["layers"]:
            for head, span in enumerate(layer["span"]):
                period = layer["period"][head]
                saved = layer["saved"] if head == 0 else None
                rows.append(
                    [name, layer["layer"], head, span, layer["keys"][head], period, layer["removed"][head], saved]
                )
        totals.append([name, *(arm["totals"].get(key) for key in TOTALS)])
    made = Report({"arms": arms})
    columns = ("run", "layer", "head", "span", "unmasked keys", "period", "masked by the wave", "FLOPs saved")
    made.tables = [table("Heads", columns, rows), table("Totals", ("run", *TOTALS), totals)]
    made.figures["heads"] = _figure(arms)
    if selection.timed_lengths:
        found = at_lengths(opened, selection.timed_lengths)
        made.values["milliseconds_at_length"] = found
        columns = ("run", *(f"{length} tokens" for length in selection.timed_lengths))
        rows = [[name, *(of["median"] for of in own.values())] for name, own in found.items()]
        made.tables.append(table("Forward pass of one sequence, ms", columns, rows))
    if not all(arm["adaptive"] for arm in arms.values()):
        made.notes.append("layers without adaptive span are counted as looking at every key")
    return made


TOTALS = ("keys", "keys_of_all", "removed", "span", "flops", "flops_of_all", "flops_saved", "time_saved")
"""Unmasked keys a head and query, mean over heads; what they would be without spans; share that the wave masks; mean
span; FLOPs of attention a sequence by count, with these spans and with every key; the share saved, of these and of the
measured time of a whole evaluation step."""


def time_saved(trained: Trained, split: str, batches: int) -> dict[str, float]:
    """The median seconds of an evaluation step with these spans and, by the same program, with the longest ones."""
    experiment = trained.experiment
    batch = eval_batch(experiment.dataset, split, 0, eval_batch_size(experiment.config))
    seconds = {}
    for name, params in (("seconds", trained.params), ("seconds_of_longest", with_longest_spans(trained.params))):
        found = speed(experiment.parallel.eval_step, params, batch, experiment.dataset.task, batches)
        seconds[name] = found["seconds_per_batch"]
    return seconds | {"time_saved": 1 - seconds["seconds"] / seconds["seconds_of_longest"]}


def at_lengths(opened: Mapping[str, Trained], lengths: Sequence[int]) -> dict[str, dict[int, dict[str, Any]]]:
    """Run -> length -> median and quartiles of the milliseconds of a forward pass of one sequence of so many tokens,
    drawn at random, all runs in turn.

    Raises:
      UserError: the model of a run takes no sequence that is longer than those that it was trained on.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in opened}
    for length in lengths:
        passes = {}
        for name, trained in opened.items():
            model = trained.experiment.model
            if model.kind != "language" or model.positions not in UNBOUNDED:
                raise UserError(
                    f"--timed-lengths: {name} has positions {model.positions!r} and is of kind {model.kind}: only "
                    f"language models with positions {' or '.join(UNBOUNDED)} read longer texts than those of training"
                )
            tokens = np.random.default_rng(0).integers(0, model.vocab_size, (1, length)).astype(np.int32)
            longer = model.clone(max_length=length)
            forward = jax.jit(lambda params, x, model=longer: model.apply({"params": params}, x))
            passes[name] = functools.partial(forward, trained.params, tokens)
        for name, timing in interleaved(passes, REPEATS).items():
            of_run = {"median": 1e3 * timing.median, "quartiles": [1e3 * value for value in timing.quartiles]}
            found[name][length] = of_run
    return found


def with_longest_spans(params: PyTree) -> PyTree:
    """The parameters with every span at max_span: where the sigmoid is 1."""

    def opened(path: tuple, leaf: Any) -> Any:
        is_span = jax.tree_util.keystr(path, simple=True, separator="/").endswith("/span_logit")
        return jnp.full_like(leaf, 30.0) if is_span else leaf

    return jax.tree.map_with_path(opened, params)


def of_run(workdir: Path, trained: Trained) -> dict[str, Any]:
    """The layers of one run and their totals."""
    model = trained.experiment.model
    length = model.max_length
    found = spans(model, trained.params, length)
    distance = np.arange(length)
    every = float(((1 - distance / length) * np.where(distance > 0, 1 if model.causal else 2, 1)).sum())
    layers = []
    for i, mechanism in enumerate(model.mechanisms()):
        module = mechanism.module(num_heads=model.num_heads, causal=model.causal)
        own = found.get(f"block_{i}")
        cost = {"width": model.width, "batch": 1}
        flops_of_all = flops = module.cost(length, **cost).flops
        if own is None:
            heads = module.num_heads
            own = {"span": [float(length)] * heads, "keys": [every] * heads, "removed": [0.0] * heads}
            own |= {"period": [None] * heads}
        else:
            # What a causal layer skips anyway is not what its spans save.
            flops_of_all = module.cost(length, **cost, reach=[float(length)] * module.num_heads).flops
            flops = module.cost(length, **cost, reach=own["reach"]).flops
        layers.append(
            {"layer": i, "mechanism": str(mechanism), "flops": flops, "flops_of_all": flops_of_all}
            | {"saved": 1 - flops / flops_of_all}
            | {name: own[name] for name in (*QUANTITIES, "period")}
        )
    mean = {name: float(np.mean([x for layer in layers for x in layer[name]])) for name in QUANTITIES}
    flops, flops_of_all = (sum(layer[name] for layer in layers) for name in ("flops", "flops_of_all"))
    totals = mean | {"keys_of_all": every, "flops": flops, "flops_of_all": flops_of_all}
    return {
        "workdir": str(workdir),
        "step": trained.step,
        "length": length,
        "adaptive": bool(found),
        "layers": layers,
        "totals": totals | {"flops_saved": 1 - flops / flops_of_all},
    }


def _figure(arms: dict[str, Any]) -> Any:
    """A row an arm, a panel a quantity, layer over head, all arms on one scale."""
    return pictures.arms(
        {
            name: {TITLES[q]: [np.asarray(layer[q]) for layer in arm["layers"]] for q in QUANTITIES}
            for name, arm in arms.items()
        },
        {
            name: f"keys {arm['totals']['keys']:.1f} of {arm['totals']['keys_of_all']:.1f}, span "
            f"{arm['totals']['span']:.1f}, masked by the wave {arm['totals']['removed']:.1%}, FLOPs saved "
            f"{arm['totals']['flops_saved']:.1%}"
            for name, arm in arms.items()
        },
    )
