"""Trains a model: `python train.py --config=configs/digits_vit.py`; see `--help`."""

import sys

from jattn.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main(sys.argv))
