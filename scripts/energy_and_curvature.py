"""Writes docs/results/energy_and_curvature.json, and prints a table of it.

    python -m jattn compare configs/digits_vit.py --axis arg=natural,neural --seeds 6 --config.steps=300 \\
        --config.checkpoint.every=50 --config.checkpoint.keep=6 --workdir=runs/energies
    python scripts/energy_and_curvature.py runs/energies --cells natural neural

Do energies of attention say where curvature is large? The attention-informed optimizer takes it for granted. Of the
runs of a comparison, at their beginning and at all checkpoints that they have kept, the energies of the blocks are set
against their parts of the empirical Fisher matrix (`jattn.analysis.curvature`). Runs that the JSON holds already are
not measured again: remove it when they have changed.
"""

import argparse
import json
import pathlib
import sys

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jattn.analysis.curvature import correlations, measure  # noqa: E402
from jattn.process import prepare_process  # noqa: E402
from jattn.training.checkpoint import Checkpoints  # noqa: E402
from jattn.training.setup import Experiment  # noqa: E402
from jattn.training.trained import open_trained  # noqa: E402
from jattn.types import PyTree  # noqa: E402


def main() -> None:
    """Measures every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=pathlib.Path, help="folder of the comparison")
    parser.add_argument("--cells", nargs="+", required=True, help="folders in it, whose seeds are compared")
    parser.add_argument("--examples", type=int, default=64, help="of the training split (default: %(default)s)")
    parser.add_argument(
        "--out", type=pathlib.Path, default=ROOT / "docs" / "results" / "energy_and_curvature.json", help="the JSON"
    )
    args = parser.parse_args()
    prepare_process()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(args.out.read_text())["runs"] if args.out.exists() else {}
    for cell in args.cells:
        for workdir in sorted(path.parent for path in (args.comparison / cell).glob("seed*/results.json")):
            of_cell = found.setdefault(cell, {})
            if workdir.name not in of_cell:
                of_cell[workdir.name] = of_run(workdir, args.examples)
                written = {"split": "train", "examples": args.examples, "jax": jax.__version__, "runs": found}
                args.out.write_text(json.dumps(written, separators=(",", ":")) + "\n")
            step, last = list(of_cell[workdir.name].items())[-1]
            print(f"{cell}, {workdir.name}, step {step}: Pearson {last['pearson']['fisher']:+.2f}", flush=True)
    print(table(found))


def of_run(workdir: pathlib.Path, count: int) -> dict[str, dict]:
    """Step -> what `at_one_moment` finds, at the beginning of a run and at all checkpoints that it has kept."""
    trained = open_trained(workdir, "newest")
    experiment = trained.experiment
    kept = Checkpoints(workdir / "checkpoints", experiment.config.checkpoint, warn=print, read_only=True).steps()
    examples = np.arange(count)
    found = {"0": at_one_moment(experiment, experiment.parallel.init_state().params, examples)}
    for step in kept:
        params = open_trained(workdir, step, experiment=experiment).params
        found[str(step)] = at_one_moment(experiment, params, examples)
    return found


def at_one_moment(experiment: Experiment, params: PyTree, examples: np.ndarray) -> dict:
    """Of each block its numbers; Pearson's and Spearman's correlation of energies with these over blocks; and, of each
    block, Spearman's of an example's energy with the length of its gradient."""
    found = measure(experiment, params, "train", examples)
    energy = found.energy.mean(0)
    numbers = {"fisher": found.fisher, "diagonal": found.fisher / found.params, "gradient": found.mean_gradient}
    over_blocks = {name: correlations(energy, values) for name, values in numbers.items()}
    of_examples = [
        correlations(*pair)["spearman"] for pair in zip(found.energy.T, found.squared_gradient.T, strict=True)
    ]
    return {
        "energy": _rounded(energy),
        **{name: _rounded(values) for name, values in numbers.items()},
        **{
            kind: {name: _rounded([of[kind]])[0] for name, of in over_blocks.items()}
            for kind in ("pearson", "spearman")
        },
        "over_examples": _rounded(of_examples),
    }


def table(found: dict[str, dict[str, dict[str, dict]]]) -> str:
    """Mean and standard deviation over seeds, at each step at which all runs of a cell have a checkpoint."""
    lines = [
        "| mechanism | seeds | step | Pearson, Fisher trace | below 0 | Pearson, mean gradient | "
        "Spearman, Fisher trace | over examples, Spearman |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, runs in found.items():
        for step in sorted(set.intersection(*(set(moments) for moments in runs.values())), key=int):
            at = [moments[step] for moments in runs.values()]
            fisher = [of["pearson"]["fisher"] for of in at]
            cells = [f"`{cell}`", str(len(at)), step, _spread(fisher), f"{np.sum(np.array(fisher) < 0)}"]
            cells += [
                _spread([of["pearson"]["gradient"] for of in at]),
                _spread([of["spearman"]["fisher"] for of in at]),
            ]
            cells.append(_spread([np.mean(of["over_examples"]) for of in at]))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):+.2f} ± {np.std(values, ddof=1):.2f}"


def _rounded(values: np.ndarray | list) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


if __name__ == "__main__":
    main()
