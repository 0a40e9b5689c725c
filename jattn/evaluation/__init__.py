"""Evaluation of a run: `evaluate(workdir)`, as a table and as results.json."""

from jattn.evaluation.evaluate import evaluate, write_results
from jattn.evaluation.measures import measures
from jattn.evaluation.table import print_table

__all__ = ["evaluate", "measures", "print_table", "write_results"]
