"""`--what criticality`: what physics measures near a critical point, on one model.

What each measurement shows, and what it does not, is said in docs/analysis.md.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jattn.analysis import criticality, pictures
from jattn.analysis.depth import with_and_without
from jattn.analysis.observe import Observed, observe
from jattn.analysis.patterns import entropy, mean_over_rows
from jattn.analysis.power_laws import PowerLaw, fit
from jattn.analysis.report import Report, table
from jattn.analysis.selection import Selection
from jattn.analysis.spectra import spectrum
from jattn.types import PyTree

TEMPERATURES = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0)
SAMPLE = 2000
"""Weights that a power law is fitted to, drawn from all of a layer."""

NARROW = 8
"""Eigenvalues of which there are fewer have no spectrum to speak of."""

RESAMPLES = 40
FEW = 32
"""Of fewer examples, variances are hardly known."""

POINTS = 3
"""Temperatures at which a number has to be known in some layer for a panel of its own."""

SWEPT = {
    "entropy": "entropy, nats",
    "order": "order parameter",
    "susceptibility": "susceptibility",
    "heat_capacity": "heat capacity",
    "correlation_length": "correlation length, tokens",
    "alpha": "exponent of the tail of shares",
}
"""What is measured at each temperature, and what its axis says."""


def report(selection: Selection) -> Report:
    """Sweep of temperature, cascades, spectra and growth of perturbations."""
    (workdir,) = selection.workdirs
    trained = selection.open(workdir)
    experiment = trained.experiment
    examples = selection.examples(experiment)
    seen = observe(experiment, trained.params, selection.split, examples, selection.layers, selection.heads)
    swept = {layer: sweep(weights, seen) for layer, weights in zip(seen.layers, seen.weights, strict=True)}
    params = jax.device_get(trained.params)
    found = spectra(params)
    grown = criticality.growth(*with_and_without(experiment.model, params, seen.inputs, seen.real), seen.real)
    values: dict[str, Any] = {
        "workdir": str(workdir),
        "step": trained.step,
        "split": selection.split,
        "examples": examples,
        "temperatures": TEMPERATURES,
        "sweep": swept,
        "spectra": found,
        "growth": {"per_layer": grown, "mean": float(grown.mean())},
    }
    made = Report(values)
    made.tables = [_sweep_table(swept), _spectra_table(found), _growth_table(grown)]
    _draw_sweep(made, swept)
    if fixed := [str(i) for i, of in swept.items() if all(at["susceptibility"] == 0 for at in of)]:
        made.notes.append(
            f"layers {', '.join(fixed)} attend alike in all examples: nothing fluctuates, so that susceptibility is 0 "
            "and there is no correlation length"
        )
    if seen.whole and all(w.shape[-1] == w.shape[-2] for w in seen.weights):
        _cascades(made, seen)
    else:
        made.notes.append("cascades follow all layers and heads: leave --layers and --heads out to get them")
    if len(examples) < FEW:
        made.notes.append(
            f"susceptibility and correlation length are variances over {len(examples)} examples: take at least {FEW}, "
            f"--examples={FEW}"
        )
    return made


def sweep(weights: np.ndarray, seen: Observed, seed: int = 0) -> list[dict[str, Any]]:
    """Of one layer's weights, what is measured at each of `TEMPERATURES`, means over heads.

    The order parameter is sum_s p^2, its mean over an example's queries; its susceptibility is T times its variance
    over examples; fields of the correlation are the shares of each real query along the keys that it could attend to.
    """
    rows = []
    pairs = (seen.real[:, :, None] & seen.allowed)[:, None]
    for temperature in TEMPERATURES:
        p = criticality.at_temperature(weights, temperature)
        order = criticality.participation(p)
        count = np.maximum(seen.real.sum(1), 1)[:, None]
        of_examples = (order * seen.real[:, None]).sum(-1) / count
        positive = p[np.broadcast_to(seen.real[:, None, :, None], p.shape) & (p > 1e-9)]
        drawn = np.random.default_rng(seed).choice(positive, min(SAMPLE, len(positive)), replace=False)
        law = fit(drawn, resamples=RESAMPLES)
        rows.append(
            {
                "temperature": temperature,
                "entropy": float(mean_over_rows(entropy(p), p, seen.real).mean()),
                "order": float(mean_over_rows(order, p, seen.real).mean()),
                "susceptibility": float(np.mean(criticality.susceptibility(of_examples, p.shape[-2]))),
                "heat_capacity": float(mean_over_rows(criticality.heat_capacity(p), p, seen.real).mean()),
                "correlation_length": criticality.correlation_length(criticality.correlation(p, known=pairs)),
                **_law(law),
            }
        )
    return rows


def _draw_sweep(made: Report, swept: Mapping[int, list[dict[str, Any]]]) -> None:
    panels = {
        title: {f"layer {i}": (TEMPERATURES, [at[q] for at in of]) for i, of in swept.items()}
        for q, title in SWEPT.items()
    }
    known = {title: max(np.isfinite(y).sum() for _, y in of.values()) for title, of in panels.items()}
    drawn = {title: of for title, of in panels.items() if known[title] >= POINTS}
    made.figures["temperature"] = pictures.lines(drawn, "temperature of the softmax", log_x=2, same_x=True)
    made.notes += [
        f"{title}: known at {known[title]} of {len(TEMPERATURES)} temperatures, too few for a curve (see the table)"
        for title in panels
        if title not in drawn
    ]


def _law(law: PowerLaw) -> dict[str, Any]:
    fields = {field.name: getattr(law, field.name) for field in dataclasses.fields(law)}
    ratios = fields.pop("ratio")
    return fields | {f"against_{name}": {"ratio": ratio, "p": p} for name, (ratio, p) in ratios.items()}


def spectra(params: PyTree) -> dict[str, dict[str, Any]]:
    """Of the blocks' parameters called kernel, by path: sizes, spectral exponent, edge, share outside, stable rank.

    Matrices with a side under `NARROW`, and parameters of other names, are left out.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        matrix = np.asarray(leaf)
        if not name.startswith("block_") or matrix.ndim < 2 or not name.endswith("kernel"):
            continue
        # Projections from heads merge the axes before the last, all others those after the first.
        into = name.endswith("out/kernel")
        matrix = matrix.reshape(-1, matrix.shape[-1]) if into else matrix.reshape(len(matrix), -1)
        if min(matrix.shape) < NARROW:
            continue
        of = spectrum(matrix)
        found[name] = {"shape": matrix.shape, "edge": of.edge, "outside": of.outside, "stable_rank": of.stable_rank}
        found[name] |= {"largest": of.eigenvalues[-1], **_law(of.tail)}
    return found


def _cascades(made: Report, seen: Observed) -> None:
    sizes = np.concatenate(
        [
            criticality.cascade_sizes(
                [criticality.strong_links(w[n], seen.allowed[n]) & seen.real[n][:, None] for w in seen.weights]
            )[seen.real[n]]
            for n in range(len(seen.examples))
        ]
    )
    law = fit(sizes, discrete=True, resamples=RESAMPLES)
    made.values["cascades"] = {"strong": criticality.STRONG, "sizes": sizes, **_law(law)}
    ordered = np.sort(sizes)
    above = 1 - np.arange(len(ordered)) / len(ordered)
    made.figures["cascades"] = pictures.lines(
        {"share of cascades at least so large": {"": (ordered, above)}}, "places reached", log_x=10,
        log_y=["share of cascades at least so large"],
    )  # fmt: skip
    row = [len(sizes), float(sizes.mean()), int(sizes.max()), law.alpha, law.error, law.xmin, law.tail, law.p]
    columns = ("cascades", "mean size", "largest", "exponent", "± error", "from size", "in the tail", "KS p")
    made.tables.append(table("Cascades of strong attention, through all layers", columns, [row]))


def _sweep_table(swept: Mapping[int, list[dict[str, Any]]]) -> Any:
    columns = ("layer", "temperature", *SWEPT, "± error", "KS p", "against lognormal (p)", "against exponential (p)")
    rows = [
        [str(layer), at["temperature"], *(at[q] for q in SWEPT), at["error"], at["p"]]
        + [_ratio(at.get(f"against_{name}")) for name in ("lognormal", "exponential")]
        for layer, of in swept.items()
        for at in of
    ]
    return table("Temperature of the softmax (1 = as trained)", columns, rows)


def _ratio(found: Mapping[str, float] | None) -> str | None:
    return None if found is None else f"{found['ratio']:.2f} ({found['p']:.2g})"


def _spectra_table(found: Mapping[str, Mapping[str, Any]]) -> Any:
    columns = (
        "matrix",
        "shape",
        "exponent",
        "± error",
        "in the tail",
        "largest / random edge",
        "outside",
        "stable rank",
    )
    rows = [
        [name, "x".join(map(str, of["shape"])), of["alpha"], of["error"], of["tail"], of["largest"] / of["edge"]]
        + [of[q] for q in ("outside", "stable_rank")]
        for name, of in found.items()
    ]
    return table("Spectra of weight matrices", columns, rows)


def _growth_table(grown: np.ndarray) -> Any:
    rows = [[str(i), float(g)] for i, g in enumerate(grown)] + [["mean", float(grown.mean())]]
    return table("ln of the growth of a small perturbation", ("layer", "growth"), rows)
