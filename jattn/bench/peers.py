"""Which PyTorch peer (`benchmarks/peers_torch`) computes what a module of jattn does, with the same options."""

import dataclasses
import importlib
import math
import os
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jattn.attention import MECHANISMS, Attention
from jattn.errors import UserError

COMMON = ("num_heads", "head_dim", "causal", "use_bias", "dtype", "implementation", "max_length", "name", "parent")
"""Fields of a module that do not decide whether it has a peer, or that the peer is checked for separately."""


class NoPeer(UserError):
    """A mechanism's released code cannot compute what the module does."""


class Peer(NamedTuple):
    """A peer's module, and arguments of its kernel besides the heads."""

    module: Any
    arguments: dict[str, Any]


class Sizes(NamedTuple):
    """What a peer is built for."""

    width: int
    length: int
    head_dim: int


def load() -> types.ModuleType:
    """The package of peers, with PyTorch set to compute where, and with as many threads as, JAX does.

    Raises:
      UserError: PyTorch or the package is not there, or computes on another kind of device than JAX.
    """
    # OpenMP's threads otherwise wait by spinning, which stalls both libraries for whole time slices where other
    # programs run: a kernel of 2 ms took 124 ms on two shared cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU's memory is for both
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its profiler announces every run
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise UserError("peers are in PyTorch, which is not installed: pip install -r requirements-bench.txt") from None
    try:
        peers = importlib.import_module("benchmarks.peers_torch")
    except ImportError:
        raise UserError(
            "peers lie in the folder benchmarks of jattn's repository: run python -m jattn from there"
        ) from None
    platform = jax.default_backend()
    if platform == "gpu" and not torch.cuda.is_available():
        raise UserError("JAX computes on a GPU and this PyTorch cannot: install a CUDA build, or set JAX_PLATFORMS=cpu")
    if platform not in ("cpu", "gpu"):
        raise UserError(f"peers run on a CPU or a GPU, not on {platform}: leave out --peers")
    if platform == "cpu" and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # as JAX by default: TF32 where the GPU has it; a CPU has none
    return peers


def _neural(peers: Any, m: Any, s: Sizes) -> Peer:
    dimension, hidden = m.network_sizes(s.head_dim)
    if hidden != (dimension, dimension // 2) or not m.shared_network:
        raise NoPeer("the released network is shared by the heads and has layers of d' and d' / 2 units")
    return Peer(peers.NeuralAttention(s.width, m.num_heads, s.head_dim, m.causal, dimension), {})


def _natural(peers: Any, m: Any, s: Sizes) -> Peer:
    torch = importlib.import_module("torch")
    mask = torch.full((s.length, s.length), -1e9).triu(1) if m.causal else None
    return Peer(peers.NaturalAttention(s.width, m.num_heads), {"attention_mask": mask})


def _reduced(layer_type: str) -> Callable[[Any, Any, Sizes], Peer]:
    def build(peers: Any, m: Any, s: Sizes) -> Peer:
        _bidirectional(m)
        variant = "shared" if getattr(m, "shared", True) else "indiv"
        over_keys = (m.softmax_axis or "keys") == "keys"
        return Peer(peers.ReducedAttention(m.num_heads, s.width, s.length, layer_type, variant, 1 + over_keys), {})

    return build


def _adaptive_span(peers: Any, m: Any, s: Sizes) -> Peer:
    torch = importlib.import_module("torch")
    if not m.causal:
        raise NoPeer("the released code is causal")
    longest = m.max_length if m.max_span is None else m.max_span
    wave = (m.periodic, m.period_min, m.period_max, m.harmonics)
    module = peers.AdaptiveCausalAttention(s.width, m.num_heads, longest, m.softness, m.span_reg, False, *wave)
    torch.nn.init.constant_(module.span_params, math.log(m.span_init / (1 - m.span_init)))
    return Peer(module, {})


_CONVNN = ("K", "sampling_type", "num_samples", "sample_padding", "magnitude_type", "coordinate_encoding")
_CONVNN += ("convolution_type", "softmax_topk_val", "candidates")


def _convnn_options(m: Any) -> dict[str, Any]:
    _bidirectional(m)
    return {name: getattr(m, name) for name in _CONVNN}


def _convnn(peers: Any, m: Any, s: Sizes) -> Peer:
    return Peer(peers.MultiHeadConvNNAttention(s.width, m.num_heads, **_convnn_options(m)), {})


def _branching_conv(peers: Any, m: Any, s: Sizes) -> Peer:
    sizes = s.width, m.num_heads, m.branch_ratio, m.kernel_size
    return Peer(peers.MultiHeadBranchingConv(*sizes, **_convnn_options(m)), {})


def _branching_attention(peers: Any, m: Any, s: Sizes) -> Peer:
    return Peer(peers.MultiHeadBranchingAttention(s.width, m.num_heads, m.branch_ratio, **_convnn_options(m)), {})


def _conv1d(peers: Any, m: Any, s: Sizes) -> Peer:
    _bidirectional(m)
    return Peer(peers.MultiHeadConv1dAttention(s.width, m.num_heads, m.kernel_size), {})


def _kvt(peers: Any, m: Any, s: Sizes) -> Peer:
    _bidirectional(m)
    return Peer(peers.MultiHeadKvtAttention(s.width, m.num_heads, qk_scale=m.qk_scale, topk=min(m.topk, s.length)), {})


_LOCAL = ("qk_rmsnorm", "qk_scale", "use_xpos", "xpos_scale_base", "exact_windowsize")


def _local(peers: Any, m: Any, s: Sizes) -> Peer:
    given = {name: getattr(m, name) for name in _LOCAL}
    if not m.rotary:
        raise NoPeer("the released code always has rotary positions")
    return Peer(peers.MultiHeadLocalAttention(s.width, m.window_size, s.head_dim, m.num_heads, m.causal, **given), {})


def _neighborhood(peers: Any, m: Any, s: Sizes) -> Peer:
    sizes = s.width, m.num_heads, m.kernel_size, m.dilation, m.causal
    return Peer(peers.NeighborhoodAttention1D(*sizes, qk_scale=m.qk_scale), {})


def _sparse(peers: Any, m: Any, s: Sizes) -> Peer:
    _bidirectional(m)
    if m.mode == "fixed":
        raise NoPeer("the released code has no fixed pattern")
    return Peer(peers.MultiHeadSparseAttention(s.width, m.num_heads, 0.0, m.mode, m.context), {})


def _softmax(peers: Any, m: Any, s: Sizes) -> Peer:
    return Peer(peers.MHSelfAttention(s.width, m.num_heads, s.head_dim, m.causal), {})


def _bidirectional(m: Attention) -> None:
    if m.causal:
        raise NoPeer("the released code has no causal form")


RELEASED: dict[str, tuple[Callable[[Any, Any, Sizes], Peer], tuple[str, ...]]] = {
    "softmax": (_softmax, ()),
    "neural": (_neural, ("projection_dim", "hidden_dims", "shared_network")),
    "natural": (_natural, ("energy_statistic",)),
    "optimised": (_reduced("Optimised"), ("softmax_axis",)),
    "efficient": (_reduced("Efficient"), ("softmax_axis",)),
    "super": (_reduced("Super"), ("softmax_axis", "shared", "token_bias")),
    "adaptive_span": (
        _adaptive_span,
        ("max_span", "softness", "span_init", "span_reg", "periodic", "period_min", "period_max", "harmonics"),
    ),
    "convnn": (_convnn, _CONVNN),
    "kvt": (_kvt, ("topk", "qkv_bias", "qk_scale")),
    "local": (
        _local,
        (*_LOCAL, "window_size", "rotary"),
    ),
    "neighborhood": (_neighborhood, ("kernel_size", "dilation", "qkv_bias", "qk_scale")),
    "sparse": (_sparse, ("mode", "context")),
    "conv1d": (_conv1d, ("kernel_size",)),
    "branching_conv": (_branching_conv, (*_CONVNN, "kernel_size", "branch_ratio")),
    "branching_attention": (_branching_attention, (*_CONVNN, "branch_ratio")),
}
"""Mechanism -> what builds the peer of its released code, and the options that this translates."""


def released(peers: Any, module: Attention, sizes: Sizes) -> Peer:
    """The released code's peer of a module, with random parameters.

    Raises:
      NoPeer: the released code cannot do what an option asks for.
    """
    name = next(name for name, kind in MECHANISMS.items() if kind is type(module))
    build, translated = RELEASED[name]
    for field in dataclasses.fields(module):
        changed = getattr(module, field.name) != field.default
        if changed and field.name not in (*COMMON, *translated):
            raise NoPeer(f"the peer of {name} has no option {field.name}={getattr(module, field.name)!r}")
    splits_width = name in ("neural", "softmax", "local") or sizes.head_dim * module.num_heads == sizes.width
    if not splits_width:
        raise NoPeer(f"heads of the released {name} divide the width")
    return build(peers, module, sizes)


def fused(peers: Any, module: Attention, sizes: Sizes) -> Peer:
    """PyTorch's scaled_dot_product_attention in the place of softmax attention."""
    if type(module) is not MECHANISMS["softmax"]:
        raise NoPeer("PyTorch's fused attention computes softmax attention")
    return released(peers, module, sizes)._replace(
        module=peers.FusedAttention(sizes.width, module.num_heads, module.causal)
    )


def flex(peers: Any, module: Attention, sizes: Sizes) -> Peer:
    """PyTorch's FlexAttention, compiled: where the pattern is a mask that the released code builds."""
    if jax.default_backend() != "gpu":
        raise NoPeer("FlexAttention has gradients on a GPU only")
    peer = peers.flex_attention_of(released(peers, module, sizes).module)
    if peer is None:
        raise NoPeer("FlexAttention computes dot products under a mask of pairs")
    return Peer(peer, {})


PEERS: dict[str, Callable[[Any, Attention, Sizes], Peer]] = {
    "released": released,
    "torch_fused": fused,
    "torch_flex": flex,
}
"""Name of an implementation -> what builds its peer of a module, or raises NoPeer."""


def builds(peers: Any, name: str, module: Attention, width: int, length: int) -> bool:
    """Whether there is a peer of this name for a module; sizes alone decide nothing."""
    try:
        PEERS[name](peers, module, Sizes(width, length, module.head_size(width)))
    except NoPeer:
        return False
    return True
