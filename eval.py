"""Evaluates a run: `python eval.py --workdir=runs/digits_vit`; see `--help`."""

import sys

from jattn.cli import eval_main

if __name__ == "__main__":
    sys.exit(eval_main(sys.argv))
