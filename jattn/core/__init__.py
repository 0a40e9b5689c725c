"""The attention core: softmax attention with any score, bias and mask."""

from jattn.core.attend import IMPLEMENTATIONS, attend, explain
from jattn.core.biases import Bias, Causal, Sum, Window
from jattn.core.dropout import Dropout
from jattn.core.masks import All, Allowed, Mask, Padding, Segments
from jattn.core.scores import Dot, Filled, features
from jattn.core.statistics import Statistics, mean_energy, statistics
from jattn.core.weights import weights

__all__ = [
    "IMPLEMENTATIONS",
    "All",
    "Allowed",
    "Bias",
    "Causal",
    "Dot",
    "Dropout",
    "Filled",
    "Mask",
    "Padding",
    "Segments",
    "Statistics",
    "Sum",
    "Window",
    "attend",
    "explain",
    "features",
    "mean_energy",
    "statistics",
    "weights",
]
