"""Writes the table of docs/attention_informed.md: what the attention-informed optimizer changes on python_docs.

    python scripts/attention_informed_table.py --steps=80 --seeds=5

AdamW and SGD, each plain, with every form of `optim.attention_informed`, and plain with the learning rate times the
mean factor that one of the forms applied. All runs of a seed have the same initial parameters and batches, so that
differences are taken seed by seed. Finished runs are kept under --runs and not repeated: remove the folder when the
code changes.
"""

import argparse
import pathlib
import runpy
import sys

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jattn.config import AttentionConfig, CheckpointConfig, Config, OptimConfig, ValidationConfig  # noqa: E402
from jattn.process import prepare_process  # noqa: E402
from jattn.training import train  # noqa: E402
from jattn.training.metrics import read_csv  # noqa: E402

FORMS = ("off", "gradient", "update", "paper")
CONTROL = "rate"
IMITATED = {"adamw": "update", "sgd": "gradient"}
"""The form whose mean factor multiplies the control's learning rate: AdamW undoes a constant factor of gradients."""

BEGIN, END = "<!-- begin: written by scripts/attention_informed_table.py -->", "<!-- end -->"


def main() -> None:
    """Runs what has not run yet, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80, help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--adamw-rate", type=float, default=2e-3, help="learning rate of AdamW (default: %(default)s)")
    parser.add_argument("--sgd-rate", type=float, default=0.1, help="learning rate of SGD (default: %(default)s)")
    parser.add_argument("--config", default="", help="argument of configs/python_docs_lm.py, such as smoke")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "attention_informed", help="their folder")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "attention_informed.md", help="the page")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds must be at least 2: one seed has no spread")
    prepare_process()
    rates = {"adamw": args.adamw_rate, "sgd": args.sgd_rate}
    found = {}
    for seed in range(args.seeds):  # seed by seed, so that a stop leaves every row with as many
        for name, rate in rates.items():
            for form in (*FORMS, CONTROL):
                factor = found[name, IMITATED[name]][seed][1] if form == CONTROL else 1.0
                config = configured(args.config, name, float(rate * factor), form, args.steps, seed)
                folder = args.runs / f"{args.config or 'full'}-{args.steps}" / f"{name}-{rate:g}" / form / str(seed)
                bits, own = result(config, folder)
                found.setdefault((name, form), []).append((bits, factor if form == CONTROL else own))
                print(f"{name} {form} seed {seed}: {bits:.4f} bits per byte, factor {found[name, form][-1][1]:.3f}")
    command = " ".join(["python", "scripts/attention_informed_table.py", *sys.argv[1:]])
    write(args.out, table(found, rates, command))


def configured(argument: str, name: str, rate: float, form: str, steps: int, seed: int) -> Config:
    """One run: the config's model with natural attention, validated on the whole split and saved at its end only."""
    config = runpy.run_path(str(ROOT / "configs" / "python_docs_lm.py"))["get_config"](argument)
    config.model.attention = AttentionConfig("natural")
    config.seed, config.steps, config.epochs = seed, steps, None
    config.optim = OptimConfig(
        name=name,
        learning_rate=rate,
        warmup_steps=min(config.optim.warmup_steps, steps),
        beta2=config.optim.beta2,
        weight_decay=config.optim.weight_decay if name == "adamw" else 0.0,
        clip_norm=config.optim.clip_norm,
        attention_informed="off" if form == CONTROL else form,
    )
    config.validation, config.checkpoint = ValidationConfig(every=steps), CheckpointConfig(every=steps)
    config.logging.tensorboard, config.logging.every = False, min(10, steps)
    return config


def result(config: Config, folder: pathlib.Path) -> tuple[float, float]:
    """Validation bits per byte at the end of a run, and its mean factor; it is trained as far as it has not been."""
    metrics = folder / "metrics.csv"
    if not metrics.exists() or read_csv(metrics)["step"][-1] < config.steps:
        train(config, folder)
    columns = read_csv(metrics)
    energies = np.array([energy for energy in columns.get("train/energy", ()) if energy is not None])
    return columns["valid/loss"][-1] / np.log(2), float(np.mean(factors(config.optim, energies)))


def factors(optim: OptimConfig, energies: np.ndarray) -> np.ndarray:
    """What the form multiplies gradients or updates by; of the paper's, the share of the usual update."""
    factor = 1 + np.tanh(optim.energy_scale * energies)
    return {
        "off": np.ones(1),
        "gradient": factor,
        "update": optim.energy_mix + (1 - optim.energy_mix) * factor,
        "paper": 1 / (1 + np.exp(-optim.energy_gamma * energies)),
    }[optim.attention_informed]


def table(found: dict[tuple[str, str], list[tuple[float, float]]], rates: dict[str, float], command: str) -> str:
    """Means with standard errors, and differences to the plain run of the same seed with 95 % intervals (t)."""
    seeds = len(found["adamw", "off"])
    lines = [
        f"Made by `{command}`:",
        f"{seeds} seeds, validation bits per byte at the end (lower is better), mean and standard error; difference to",
        "the plain run of the same seed, mean and 95 % interval (Student's t).",
        "",
        "| optimizer | learning rate | attention_informed | bits per byte | difference to off | mean factor |",
        "|---|---|---|---|---|---|",
    ]
    for (name, form), rows in found.items():
        bits, own = np.array(rows).T
        rate = f"{rates[name]:g}"
        shown = form
        if form == CONTROL:
            shown, rate = "off", f"{rates[name]:g} x mean factor of {IMITATED[name]}"
        difference = "" if form == "off" else interval(bits - np.array(found[name, "off"])[:, 0])
        cells = (name, rate, shown, f"{bits.mean():.4f} ± {stats.sem(bits):.4f}", difference, f"{own.mean():.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(differences: np.ndarray) -> str:
    """Mean and 95 % interval of paired differences."""
    half = stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1)
    mean = differences.mean()
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


def write(page: pathlib.Path, text: str) -> None:
    """Puts the table between its marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"error: {page} has no place for the table: it needs the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
