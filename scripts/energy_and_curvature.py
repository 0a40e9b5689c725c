"""Writes docs/results/energy_and_curvature.json, and its table in docs/attention_informed.md.

    python scripts/energy_and_curvature.py

Do energies of attention say where curvature is large? The attention-informed optimizer takes it for granted. Small
models are trained with several seeds; at the beginning and at six checkpoints, energies of the blocks are set against
their part of the empirical Fisher matrix (`jattn.analysis.curvature`) on the first examples of the training split.
Finished runs are kept under --runs and not repeated: remove the folder when the code changes.
"""

import argparse
import json
import pathlib
import runpy
import sys

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jattn.analysis.curvature import correlations, measure  # noqa: E402
from jattn.config import CheckpointConfig, Config, ValidationConfig  # noqa: E402
from jattn.process import prepare_process  # noqa: E402
from jattn.training import setup, train  # noqa: E402
from jattn.training.metrics import read_csv  # noqa: E402
from jattn.training.trained import open_trained  # noqa: E402

CELLS = {
    "digits, 4 blocks": ("digits_vit", {}),
    "python_docs, 8 blocks": ("python_docs_lm", {"depth": 8, "width": 32}),
    "digits, 12 blocks": ("digits_vit", {"depth": 12, "width": 32}),
}
"""Name -> config, whose mechanism is natural attention, and what is changed of it."""

CHECKPOINTS = 6
"""Of a run, equally far apart, and its beginning besides."""

WITH = {"fisher": "Fisher trace", "diagonal": "Fisher diagonal", "gradient": "mean gradient"}
"""What energies are correlated with, over blocks."""

BEGIN, END = "<!-- begin: written by scripts/energy_and_curvature.py -->", "<!-- end -->"


def main() -> None:
    """Runs what has not run yet, measures, and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=6, help="seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=64, help="of the training split (default: %(default)s)")
    parser.add_argument(
        "--runs", type=pathlib.Path, default=ROOT / "runs" / "energy_and_curvature", help="their folder"
    )
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs", help="where the files lie")
    args = parser.parse_args()
    if args.seeds < 2 or args.steps % CHECKPOINTS:
        parser.error(f"--seeds must be at least 2, and --steps divide by {CHECKPOINTS}")
    prepare_process()
    found = {}
    for name, (file, changes) in CELLS.items():
        for seed in range(args.seeds):
            folder = args.runs / f"{name.replace(', ', '-').replace(' ', '_')}-{args.steps}" / f"seed{seed}"
            config = configured(file, changes, args.steps, seed)
            found.setdefault(name, []).append(of_run(config, folder, args.examples))
            print(f"{name}, seed {seed}: {_shown(found[name][-1][-1])}", flush=True)
    command = " ".join(["python", "scripts/energy_and_curvature.py", *sys.argv[1:]])
    written = {"command": command, "jax": jax.__version__, "examples": args.examples, "runs": found}
    out = args.out / "results" / "energy_and_curvature.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(written, indent=None, separators=(",", ":")) + "\n")
    page = args.out / "attention_informed.md"
    page.write_text(_replaced(page.read_text(), table(found, command)))


def configured(file: str, changes: dict, steps: int, seed: int) -> Config:
    """One run that keeps all of its checkpoints and writes little else."""
    config = runpy.run_path(str(ROOT / "configs" / f"{file}.py"))["get_config"]("natural")
    for name, value in changes.items():
        setattr(config.model, name, value)
    if config.data.name == "python_docs":
        config.data.options = "sequence_length=64"
    config.seed, config.steps, config.epochs = seed, steps, None
    config.validation = ValidationConfig(every=steps)
    config.checkpoint = CheckpointConfig(every=steps // CHECKPOINTS, keep=100)  # a run that was stopped has more
    config.logging.tensorboard, config.logging.attention_every = False, None
    return config


def of_run(config: Config, folder: pathlib.Path, count: int) -> list[dict]:
    """Energies and curvature of each block, and their correlations, at the beginning and at every checkpoint."""
    kept = folder / f"energies-{count}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    metrics = folder / "metrics.csv"
    if not metrics.exists() or read_csv(metrics)["step"][-1] < config.steps:
        train(config, folder)
    experiment = setup.build(config)
    examples = np.arange(count)
    rows = []
    for step in range(0, config.steps + 1, config.checkpoint.every):
        if step == 0:
            params = experiment.parallel.init_state().params
        else:
            params = open_trained(folder, step, experiment=experiment).params
        rows.append({"step": step} | at_one_moment(experiment, params, examples))
    kept.write_text(json.dumps(rows))
    return rows


def at_one_moment(experiment: setup.Experiment, params: dict, examples: np.ndarray) -> dict:
    """Of each block its numbers, and of these the correlations with the energy."""
    found = measure(experiment, params, "train", examples)
    energy = found.energy.mean(0)
    numbers = {"fisher": found.fisher, "diagonal": found.fisher / found.params, "gradient": found.mean_gradient}
    within = [
        correlations(found.energy[:, i], found.squared_gradient[:, i])["spearman"] for i in range(found.energy.shape[1])
    ]
    return {
        "energy": _rounded(energy),
        **{name: _rounded(values) for name, values in numbers.items()},
        "over_blocks": {
            name: _rounded([correlations(energy, values)[kind] for kind in ("pearson", "spearman")])
            + _rounded([correlations(beyond_depth(energy), beyond_depth(np.log(values)))["pearson"]])
            for name, values in numbers.items()
        },
        "over_examples": _rounded(within),
    }


def beyond_depth(values: np.ndarray) -> np.ndarray:
    """What a straight line over the index of the block leaves."""
    index = np.arange(len(values))
    return values - np.polyval(np.polyfit(index, values, 1), index)


def table(found: dict[str, list[list[dict]]], command: str) -> str:
    """Mean and standard deviation over seeds of each correlation with the Fisher trace, at each step."""
    seeds, examples = (len(next(iter(found.values()))), "the first examples of the training split")
    lines = [
        f"Made by `{command}`: {seeds} seeds, {examples}; correlation of energies with the Fisher trace",
        "over blocks, and, within a block, over examples (mean over blocks): mean ± standard deviation over seeds, and",
        "in how many of the seeds it is positive.",
        "",
        "| model | step | Pearson | positive | Spearman | Pearson, beyond depth | over examples, Spearman |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        blocks = len(runs[0][0]["energy"])
        for moments in zip(*runs, strict=True):
            pearson, spearman, beyond = np.array([m["over_blocks"]["fisher"] for m in moments], np.float64).T
            within = [np.mean(m["over_examples"]) for m in moments]
            cells = (name, str(moments[0]["step"]), _spread(pearson), f"{np.sum(pearson > 0)} of {seeds}")
            # A line takes two of four blocks' degrees of freedom.
            cells += (_spread(spearman), _spread(beyond) if blocks >= 8 else "", _spread(within))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    return f"{np.mean(values):+.2f} ± {np.std(values, ddof=1):.2f}"


def _shown(moment: dict) -> str:
    return ", ".join(f"{label} {moment['over_blocks'][name][0]:+.2f}" for name, label in WITH.items())


def _rounded(values: np.ndarray | list) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _replaced(page: str, text: str) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: the page has no place for the table: it needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


if __name__ == "__main__":
    main()
