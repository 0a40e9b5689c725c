"""Training: `train(config, workdir)`, and what it is made of."""

from jattn.training.journal import NonFiniteError
from jattn.training.loop import train

__all__ = ["NonFiniteError", "train"]
