"""The same budget for all: steps, tokens, or seconds of training."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jattn.compare.grid import Cell
from jattn.config import Config
from jattn.data import Dataset
from jattn.errors import UserError, unknown
from jattn.models.layers import num_patches
from jattn.training.setup import make_plan

UNITS = ("steps", "tokens", "seconds")

_LENGTHS = ("steps", "epochs")


@dataclass(frozen=True)
class Budget:
    """What every run gets: so many of a unit; None = as many as the baseline's config asks for."""

    unit: str
    amount: float | None


def parse_budget(text: str) -> Budget:
    """A budget from `UNIT` or `UNIT=AMOUNT`.

    >>> parse_budget("seconds=90")
    Budget(unit='seconds', amount=90.0)

    Raises:
      UserError: an unknown unit, or an amount that is no number above 0.
    """
    unit, equals, amount = text.partition("=")
    if unit not in UNITS:
        raise unknown("budget", unit, UNITS)
    if not equals:
        return Budget(unit, None)
    if not re.fullmatch(r"\d+(\.\d*)?([eE]\+?\d+)?", amount) or float(amount) <= 0:
        raise UserError(f"--budget {text}: the amount must be a number above 0, such as --budget {unit}=1000")
    return Budget(unit, float(amount))


def tokens_per_step(config: Config, dataset: Dataset) -> int:
    """Positions that a training step attends from: tokens of text, padding included, or patches of pictures."""
    task = dataset.task
    length = num_patches(task.image_shape[:2], config.model.patch_size) if task.kind == "image" else task.length
    return length * config.data.batch_size


def budgeted(
    cells: Sequence[Cell],
    baseline: Cell,
    budget: Budget,
    dataset: Dataset,
    steps_per_second: Callable[[Sequence[Cell]], Mapping[str, float]],
) -> list[Cell]:
    """Cells whose runs are as long as the budget says.

    Args:
      cells: to be compared.
      baseline: whose length is the budget where no amount is given.
      budget: see `parse_budget`.
      dataset: of all cells.
      steps_per_second: measures cells, by name; called for a budget of seconds.

    Raises:
      UserError: lengths differ, are axes and fixed by the budget at once, or are shorter than a step.
    """
    axes = [name for name in _LENGTHS if name in cells[0].settings]
    if axes and budget != Budget("steps", None):
        raise UserError(f"--budget sets {axes[0]}, which is an axis: leave one of them out")
    totals = {cell.name: make_plan(cell.config, dataset.size("train")).total for cell in cells}
    if budget == Budget("steps", None):
        other = next((cell for cell in cells if totals[cell.name] != totals[baseline.name]), None)
        if other is not None and not axes:
            raise UserError(
                f"{baseline.name!r} has {totals[baseline.name]} steps and {other.name!r} {totals[other.name]}: give "
                f"all the same with --budget, such as --budget steps={totals[baseline.name]}"
            )
        return list(cells)
    if budget.unit == "seconds":
        rates = steps_per_second(cells)
    else:
        per_step = {cell.name: 1 if budget.unit == "steps" else tokens_per_step(cell.config, dataset) for cell in cells}
        rates = {name: 1 / size for name, size in per_step.items()}
    amount = totals[baseline.name] / rates[baseline.name] if budget.amount is None else budget.amount
    return [_of_length(cell, round(amount * rates[cell.name]), budget) for cell in cells]


def _of_length(cell: Cell, steps: int, budget: Budget) -> Cell:
    if steps < 1:
        raise UserError(f"--budget {budget.unit}={budget.amount:g} is less than one step of {cell.name!r}: give more")
    return cell.with_flags(f"--config.steps={steps}", "--config.epochs=None")
