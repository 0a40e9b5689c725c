"""Evaluation of a run: `evaluate(workdir)`, as a table, as results.json and as pictures."""

from jattn.evaluation.evaluate import evaluate, write_results
from jattn.evaluation.pictures import draw
from jattn.evaluation.table import print_table

__all__ = ["draw", "evaluate", "print_table", "write_results"]
