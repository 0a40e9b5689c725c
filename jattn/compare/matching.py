"""Models of equal size: the width of the mlp adapted until parameters or FLOPs agree with the baseline's."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from jattn import models
from jattn.compare.grid import Cell
from jattn.config import Config
from jattn.data import Dataset
from jattn.errors import UserError
from jattn.models.summary import size
from jattn.training import losses

QUANTITIES = {"params": "parameters", "flops": "FLOPs of a forward pass"}
"""What --match names, in words."""

TOLERANCE = 0.01
"""Relative difference up to which two models are of one size."""

_MLP = "model.mlp_dim"


class Size(NamedTuple):
    """A model's parameters, and the FLOPs of one example's forward pass (see `jattn.models.summary`)."""

    params: int
    flops: int


def size_of(config: Config, dataset: Dataset) -> Size:
    """The size of the model that a config describes on its data, whichever implementation computes its attention."""
    model = dataclasses.replace(config.model, implementation=None)
    outputs = losses.num_outputs(config.loss, dataset.task)
    return Size(*size(models.build(model, dataset.task, num_outputs=outputs), dataset.task))


def matched(cells: Sequence[Cell], baseline: Cell, by: str, dataset: Dataset) -> tuple[list[Cell], list[str]]:
    """Cells whose models are as large as the baseline's, by `by` of `QUANTITIES`; and what was done, a line a cell.

    Both quantities are linear in the mlp's width, so two sizes tell the width that is wanted.

    Raises:
      UserError: the width of the mlp is an axis, or no width brings a cell within `TOLERANCE`.
    """
    if any(_MLP in cell.settings for cell in cells):
        raise UserError(f"--match={by} adapts {_MLP}, which is an axis: leave one of them out")

    def measured(cell: Cell) -> int:
        return getattr(size_of(cell.config, dataset), by)

    target = measured(baseline)
    found, said = [], []
    for cell in cells:
        if cell.name == baseline.name or measured(cell) == target:
            found.append(cell)
            continue
        before = _mlp_dim(cell.config)
        one, two = (measured(_with_mlp(cell, width)) for width in (1, 2))
        width = max(1, 1 + round((target - one) / (two - one)))
        adapted = cell if width == before else _with_mlp(cell, width)
        reached = measured(adapted)
        if abs(reached - target) > TOLERANCE * target:
            raise UserError(
                f"{cell.name!r} cannot be matched to {baseline.name!r}: with {_MLP}={width} it has {reached:,} "
                f"{QUANTITIES[by]}, not {target:,}: leave it out, or compare without --match"
            )
        found.append(adapted)
        change = f"{_MLP} stays {width}, with which" if adapted is cell else f"{_MLP} {before} -> {width}, so that"
        said.append(
            f"{cell.name}: {change} it has {reached:,} {QUANTITIES[by]} "
            f"({baseline.name}: {target:,}, {reached / target - 1:+.2%})"
        )
    return found, said


def _mlp_dim(config: Config) -> int:
    return 4 * config.model.width if config.model.mlp_dim is None else config.model.mlp_dim


def _with_mlp(cell: Cell, width: int) -> Cell:
    return cell.with_flags(f"--config.{_MLP}={width}")
