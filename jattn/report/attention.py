"""The attention of one run as a page shows it: few and small maps of shares of weights, statistics of all heads."""

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jattn.analysis import of_adaptive, patterns, pictures
from jattn.analysis.observe import Observed, has_class_token, observe, texts_of_tokens
from jattn.analysis.rollout import over_picture, rollout
from jattn.analysis.selection import Selection
from jattn.models.layers import num_patches
from jattn.models.transformer import Transformer
from jattn.report.packing import packed, quantized
from jattn.training.setup import Experiment

SHOWN = 4
"""Examples whose maps a page holds, at most."""

BYTES = 8_000_000
"""Of all maps of a page before compression: of more, fewer examples are shown, and then fewer tokens."""

FEWEST = 8
"""Tokens of a map, whatever the size."""

SIDE = 192
"""Pixels of a picture's longer side, at most."""

STATISTICS = {
    "entropy": "entropy, nats",
    "keys": "effective keys",
    "distance": "distance, tokens",
    "diagonal": "share on itself",
    "first": "share on the first token",
    "top_1": "share of the largest key",
    "top_4": "share of the 4 largest",
    "sparsity": "keys with hardly any share",
    "effective_rank": "effective rank",
    "spread": "spread over examples",
    "stability": "stability over examples",
}
"""Those of `patterns.of_layer` that are shown, and what they are called."""

ADAPTIVE = {
    "span": "span, tokens",
    "keys": "unmasked keys",
    "removed": "masked by the wave",
    "period": "period, tokens",
}
"""What layers of adaptive span have besides, as in `of_adaptive`."""


class Fitting(NamedTuple):
    """What of the maps is shown.

    Attributes:
      pool: which tokens make one place of a map, (P, T) of 0 and 1.
      blocks: of pictures, rows and columns of the places.
      examples: the number of them.
    """

    pool: np.ndarray
    blocks: tuple[int, int] | None
    examples: int


def of_run(workdir: Path, selection: Selection, tokens: int, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a page shows of a run's attention.

    Args:
      workdir: of the run.
      selection: checkpoint, split, examples, layers and heads; its workdirs are not looked at.
      tokens: at most so many a map: of a text the first, of a picture blocks of patches.
      size: bytes that its maps may take before compression.

    Returns:
      What is the run's own, its maps packed under "maps" (of each layer uint8 (1 + examples, H, P, P), the mean map
      first, then uint16 (1 + examples, H, P), see `packing.quantized`); and its examples, which other runs may share.

    Raises:
      UserError: see `Selection.open` and `observe`.
    """
    trained = selection.open(workdir)
    experiment = trained.experiment
    seen = observe(
        experiment, trained.params, selection.split, selection.examples(experiment), selection.layers, selection.heads
    )
    model = experiment.model
    pool, _, shown = fitting = _fitting(model, seen, tokens, size)
    blocks, found = [], []
    for weights in seen.weights:
        found.append(patterns.of_layer(weights, seen.real, seen.allowed))
        maps, largest = quantized(_pooled_maps(weights, seen.real, shown, pool))
        blocks += [maps.tobytes(), largest.tobytes()]
    statistics = {text: [of[name] for of in found] for name, text in STATISTICS.items()}
    mechanisms = model.mechanisms()
    own = {
        "step": trained.step,
        "layers": seen.layers,
        "heads": seen.heads,
        "mechanisms": [str(mechanisms[i]) for i in seen.layers],
        "tokens": len(pool),
        "statistics": statistics | _adaptive(workdir, trained, seen),
        "notes": _notes(seen),
        "rollout": _rolled(model, seen, shown, len(pool)),
        "maps": packed(b"".join(blocks)),
    }
    return own, _examples(experiment, selection.split, seen, fitting)


def key_of(examples: Mapping[str, Any]) -> str:
    """A name for examples: the same for the same."""
    return hashlib.sha256(repr(examples).encode()).hexdigest()[:12]


def _fitting(model: Transformer, seen: Observed, tokens: int, size: int) -> Fitting:
    """How tokens are pooled, and how many examples are shown, so that the maps take at most `size` bytes."""
    while True:
        pool, blocks = _pool(model, seen, tokens)
        places = len(pool)
        fitting = size // (sum(map(len, seen.heads)) * places * (places + 2)) - 1
        if fitting >= 1 or tokens <= FEWEST:
            return Fitting(pool, blocks, max(1, min(SHOWN, len(seen.examples), fitting)))
        tokens = max(FEWEST, tokens * 3 // 4)


def _pool(model: Transformer, seen: Observed, tokens: int) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Which tokens (columns) make one place of a map (rows), (P, T) of 0 and 1; of pictures rows and columns of places.

    Places of a picture are square blocks of patches, the class token one by itself.
    """
    length = seen.real.shape[1]
    if model.kind != "image":
        return np.eye(length)[:tokens], None
    rows, columns = _grid(model, seen)
    fits = lambda side: -(-rows // side) * -(-columns // side) <= tokens  # noqa: E731
    side = next(side for side in range(1, length + 1) if fits(side))
    down, across = -(-rows // side), -(-columns // side)
    row, column = np.divmod(np.arange(rows * columns), columns)
    pool = (row // side * across + column // side == np.arange(down * across)[:, None]).astype(np.float64)
    if not has_class_token(model):
        return pool, (down, across)
    with_class = np.zeros((len(pool) + 1, length))
    with_class[0, 0] = 1
    with_class[1:, 1:] = pool
    return with_class, (down, across)


def _grid(model: Transformer, seen: Observed) -> tuple[int, int]:
    height, width, _ = seen.inputs.shape[1:]
    assert num_patches((height, width), model.patch_size)
    return height // model.patch_size, width // model.patch_size


def _pooled_maps(weights: np.ndarray, real: np.ndarray, shown: int, pool: np.ndarray) -> np.ndarray:
    """(1 + shown, H, P, P): the mean over all examples, then those shown; a place's row is the mean of its queries'.

    Padding attends too, but nothing comes of it: its rows are zero.
    """
    p = patterns.shares(weights) * real[:, None, :, None]
    maps = np.concatenate([patterns.mean_map(p, real)[None], p[:shown]])
    return (pool / pool.sum(1, keepdims=True)) @ maps @ pool.T


def _rolled(model: Transformer, seen: Observed, shown: int, places: int) -> list[Any] | None:
    """Of each example shown how much of each patch or token reaches the output; None without all layers and heads."""
    if not seen.whole:
        return None
    rolled = rollout([weights[:shown] for weights in seen.weights])
    first = has_class_token(model)
    if model.kind == "image":
        return over_picture(rolled, _grid(model, seen), first).tolist()
    if model.causal:
        read = rolled[:, -1]
    elif first:
        read = rolled[:, 0]
    else:
        read = np.stack([rolled[i][seen.real[i]].mean(0) for i in range(shown)])
    return read[:, :places].tolist()


def _adaptive(workdir: Path, trained: Any, seen: Observed) -> dict[str, Any]:
    """Spans and what comes of them, of the layers and heads seen; nothing where no layer has any."""
    found = of_adaptive.of_run(workdir, trained)
    if not found["adaptive"]:
        return {}
    return {
        text: [[found["layers"][i][name][h] for h in heads] for i, heads in zip(seen.layers, seen.heads, strict=True)]
        for name, text in ADAPTIVE.items()
    }


def _notes(seen: Observed) -> list[str]:
    notes = []
    if not all(patterns.sums_to_one(weights, seen.real) for weights in seen.weights):
        notes.append("Weights of this mechanism do not sum to 1 over the keys: shown are their shares.")
    return notes


def _examples(experiment: Experiment, split: str, seen: Observed, fitting: Fitting) -> dict[str, Any]:
    model, shown = experiment.model, fitting.examples
    first = has_class_token(model)
    common = {"kind": model.kind, "split": split, "index": seen.examples[:shown].tolist(), "class_token": first}
    common |= {"averaged": len(seen.examples), "causal": model.causal}
    if model.kind == "image":
        pictures_shown = [_png(picture) for picture in seen.inputs[:shown]]
        return common | {"grid": _grid(model, seen), "blocks": fitting.blocks, "pictures": pictures_shown}
    lengths, texts = seen.real[:shown].sum(1).tolist(), []
    for inputs, real in zip(seen.inputs[:shown], seen.real[:shown], strict=True):
        tokens = [*(["[class]"] if first else []), *texts_of_tokens(experiment.dataset, inputs)]
        texts.append([token for token, kept in zip(tokens, real, strict=True) if kept][: len(fitting.pool)])
    return common | {"texts": texts, "lengths": lengths}


def _png(picture: np.ndarray) -> str:
    image = Image.fromarray(np.round(255 * pictures.visible(picture)).astype(np.uint8))
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode("ascii")
