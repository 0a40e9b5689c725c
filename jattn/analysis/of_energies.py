"""`--what energies`: do energies of attention say where gradients and curvature are large?

The attention-informed optimizer scales a block's step by its energy (`jattn.optim.attention_informed`), which makes
sense as far as energies go with the diagonal of the Fisher matrix.
"""

import numpy as np

from jattn.analysis import pictures
from jattn.analysis.curvature import correlations, measure
from jattn.analysis.report import Report, table
from jattn.analysis.selection import Selection


def report(selection: Selection) -> Report:
    """Energy, Fisher trace and gradient of each block, and how they go together over blocks and over examples."""
    (workdir,) = selection.workdirs
    trained = selection.open(workdir)
    examples = selection.examples(trained.experiment)
    found = measure(trained.experiment, trained.params, selection.split, examples)
    energy, diagonal = found.energy.mean(0), found.fisher / found.params
    over_blocks = {
        "Fisher diagonal (mean)": correlations(energy, diagonal),
        "Fisher trace": correlations(energy, found.fisher),
        "gradient of the mean loss": correlations(energy, found.mean_gradient),
    }
    within = [correlations(found.energy[:, i], np.sqrt(found.squared_gradient[:, i])) for i in range(len(energy))]
    rows = [
        [str(i), energy[i], found.energy[:, i].std(), found.fisher[i], diagonal[i], found.mean_gradient[i]]
        + [within[i][name] for name in ("spearman", "spearman_p")]
        for i in range(len(energy))
    ]
    columns = ("block", "energy", "its spread", "Fisher trace", "Fisher diagonal", "mean gradient")
    columns += ("Spearman over examples", "p")
    made = Report(
        {
            "workdir": str(workdir),
            "step": trained.step,
            "split": selection.split,
            "examples": examples,
            "energy": energy,
            "energy_of_examples": found.energy,
            "fisher_trace": found.fisher,
            "fisher_diagonal": diagonal,
            "gradient_of_examples": np.sqrt(found.squared_gradient),
            "gradient_of_mean_loss": found.mean_gradient,
            "over_blocks": over_blocks,
            "over_examples": within,
        }
    )
    made.tables = [
        table("Energy and gradients of each block", columns, rows),
        table(
            "Correlation with the energy, over blocks",
            ("with", "blocks", "Pearson", "p", "Spearman", "p"),
            [[name, *of.values()] for name, of in over_blocks.items()],
        ),
    ]
    of_examples = {
        f"block {i}": (found.energy[:, i], np.sqrt(found.squared_gradient[:, i])) for i in range(len(energy))
    }
    made.figures["scatter"] = pictures.scatters(
        {
            "gradient of each example (length)": of_examples,
            "Fisher diagonal of each block": {
                f"block {i}": ([e], [d]) for i, (e, d) in enumerate(zip(energy, diagonal, strict=True))
            },
        },
        "energy, mean |score|",
    )
    if len(energy) < 8:
        made.notes.append(f"a correlation over {len(energy)} blocks shows little: see its p-value, and several runs")
    return made
