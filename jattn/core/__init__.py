"""The attention core: softmax attention with any score, bias and mask."""

from jattn.core.attend import IMPLEMENTATIONS, attend, explain, native_implementations
from jattn.core.biases import Bias, Causal, Reach, Sum, Window
from jattn.core.choice import implementations_taken
from jattn.core.dropout import Dropout
from jattn.core.masks import All, Allowed, Mask, Padding, Past, Segments
from jattn.core.merging import merged
from jattn.core.nearest import Nearest, NotAfter, NotOwn, best, gather, nearest, score_matrix
from jattn.core.over_queries import Exchanged, OverQueries, over_queries
from jattn.core.patterns import Blocks, Shifted, StretchedBias, StretchedMask, Strided
from jattn.core.pieces import in_pieces
from jattn.core.scores import MLP, Added, Distance, Dot, Filled, Penalized, features, root
from jattn.core.spans import SoftSpan, TriangleWave
from jattn.core.statistics import SPARSE, Statistics, mean_energy, statistics
from jattn.core.storing import stored
from jattn.core.threshold import AtLeast, thresholds
from jattn.core.weights import weights
from jattn.core.windows import ByLag, BySlot, NearBlocks, XPos

__all__ = [
    "IMPLEMENTATIONS",
    "MLP",
    "SPARSE",
    "Added",
    "All",
    "Allowed",
    "AtLeast",
    "Bias",
    "Blocks",
    "ByLag",
    "BySlot",
    "Causal",
    "Distance",
    "Dot",
    "Dropout",
    "Exchanged",
    "Filled",
    "Mask",
    "NearBlocks",
    "Nearest",
    "NotAfter",
    "NotOwn",
    "OverQueries",
    "Padding",
    "Past",
    "Penalized",
    "Reach",
    "Segments",
    "Shifted",
    "SoftSpan",
    "Statistics",
    "StretchedBias",
    "StretchedMask",
    "Strided",
    "Sum",
    "TriangleWave",
    "Window",
    "XPos",
    "attend",
    "best",
    "explain",
    "features",
    "gather",
    "implementations_taken",
    "in_pieces",
    "mean_energy",
    "merged",
    "native_implementations",
    "nearest",
    "over_queries",
    "root",
    "score_matrix",
    "statistics",
    "stored",
    "thresholds",
    "weights",
]
