"""`--what convergence`: loss, perplexity, gradient norm and energy over training, of runs laid over one another."""

import dataclasses

from jattn.analysis import pictures
from jattn.analysis.convergence import curves, laid_over, names, summary
from jattn.analysis.report import Report, table
from jattn.analysis.selection import Selection
from jattn.training.run import read_config

LEFT_OUT = ("train/learning_rate", "train/voided_steps")
SPREAD = "_spread"
"""At the end of the name of a quantity that is drawn as the spread of another one."""

COLUMNS = ("first", "halfway", "last", "best", "best_step", "level", "spread", "slope")


def report(selection: Selection) -> Report:
    """Each curve in numbers, and all as pictures."""
    named = names(selection.workdirs)
    found = {}
    for workdir, name in named.items():
        language = read_config(workdir).model.name == "language_model"
        found[name] = curves(workdir, perplexity=language)
    over = {name: of for name, of in laid_over(found).items() if name not in LEFT_OUT and not _is_pattern(name)}
    numbers = {
        name: {run: summary(curve, higher=name.endswith("accuracy")) for run, curve in of.items()}
        for name, of in over.items()
    }
    rows = [
        [quantity, run, *(getattr(of, column) for column in COLUMNS)]
        for quantity, runs in numbers.items()
        for run, of in runs.items()
    ]
    values = {
        "runs": {name: str(workdir) for workdir, name in named.items()},
        "summary": {q: {run: dataclasses.asdict(of) for run, of in runs.items()} for q, runs in numbers.items()},
        "curves": {q: {run: {"step": s, "value": v} for run, (s, v) in runs.items()} for q, runs in over.items()},
    }
    made = Report(values, tables=[table("Convergence", ("quantity", "run", *COLUMNS), rows)])
    logarithmic = [name for name in over if name.endswith(("/perplexity", "/grad_norm"))]
    spreads = {name.removesuffix(SPREAD): of for name, of in over.items() if name.endswith(SPREAD)}
    panels = {name: of for name, of in over.items() if not name.endswith(SPREAD)}
    made.figures["curves"] = pictures.lines(panels, "step", log_y=logarithmic, spreads=spreads)
    if not any(name.endswith("/energy") for name in over):
        made.notes.append("no run logged energies: --config.logging.attention_every=100 makes one do so")
    return made


def _is_pattern(name: str) -> bool:
    """Whether a column is one of those that `--what=dynamics` draws; energies and their spreads belong here too."""
    return name.startswith("attention/") and not name.endswith(("/energy", f"/energy{SPREAD}"))
