"""Draws docs/gallery/maps.png: what each mechanism of a comparison looks at, the same text under all of them.

    python scripts/gallery_maps.py runs/python_docs

The folder is that of `python -m jattn compare ... --axis arg=softmax,...`; the runs of seed 0 are drawn.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jattn import figures  # noqa: E402
from jattn.analysis.observe import observe  # noqa: E402
from jattn.attention import MECHANISMS  # noqa: E402
from jattn.process import prepare_process  # noqa: E402
from jattn.training.trained import open_trained  # noqa: E402

COLUMNS = 5
LAYER, HEAD = 0, 0
TOKENS = 64
"""Of an example; the first ones."""


def seen(run: Path, example: int) -> np.ndarray:
    """The map of one head, each query scaled to its largest key, small weights made visible: (TOKENS, TOKENS)."""
    trained = open_trained(run, "best")
    found = observe(trained.experiment, trained.params, "test", np.array([example]), [LAYER], [HEAD])
    weights = np.abs(found.weights[0][0, 0, :TOKENS, :TOKENS])
    return np.sqrt(weights / np.maximum(weights.max(-1, keepdims=True), 1e-12))


def drawn(maps: dict[str, np.ndarray]) -> Figure:
    """A panel a mechanism."""
    rows = -(-len(maps) // COLUMNS)
    figure = Figure(figsize=(2 * COLUMNS, 2.2 * rows), layout="constrained", facecolor="#0d1117")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes in panels:
        axes.axis("off")
    for axes, (name, grid) in zip(panels, maps.items(), strict=False):
        axes.imshow(grid, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(name, fontsize=10, family="monospace", color="#e6edf3")
    return figure


def main() -> None:
    """Draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="folder of the comparison")
    parser.add_argument("--example", type=int, default=0, help="of the test split (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gallery", help="folder of the picture")
    args = parser.parse_args()
    prepare_process()
    maps = {}
    for name in MECHANISMS:
        run = args.comparison / name / "seed0"
        if run.exists():
            maps[name] = seen(run, args.example)
            print(name, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    print(*figures.save(drawn(maps), args.out, "maps"))


if __name__ == "__main__":
    main()
