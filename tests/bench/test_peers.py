"""The PyTorch peers compute what the released codes do: recorded outputs and gradients."""

import inspect
import os
from pathlib import Path

import numpy as np
import pytest

from jattn.verify.case import read
from jattn.verify.check import GRADIENT_ATOL, GRADIENT_NOISES, OUTPUT_ATOL, OUTPUT_RTOL

torch = pytest.importorskip("torch", reason="peers are in PyTorch: pip install -r requirements-bench.txt")

from benchmarks import peers_torch  # noqa: E402

FOLDER = Path(os.environ.get("JATTN_GOLDEN") or Path(__file__).parents[1] / "golden")

CLASSES = {
    "adaptive_span": peers_torch.AdaptiveCausalAttention,
    "adaptive_span_triangle": peers_torch.AdaptiveCausalAttention,
    "branching_attention": peers_torch.MultiHeadBranchingAttention,
    "branching_conv": peers_torch.MultiHeadBranchingConv,
    "conv1d_attention": peers_torch.MultiHeadConv1dAttention,
    "convnn_attention": peers_torch.MultiHeadConvNNAttention,
    "kvt_attention": peers_torch.MultiHeadKvtAttention,
    "local_attention": peers_torch.MultiHeadLocalAttention,
    "multihead_attention": peers_torch.MultiHeadAttention,
    "natural_attention": peers_torch.NaturalAttention,
    "neighborhood_attention_1d": peers_torch.NeighborhoodAttention1D,
    "neural_attention": {
        "NeuralAttention": peers_torch.NeuralAttention,
        "MHSelfAttention": peers_torch.MHSelfAttention,
        "SimpleTransformer": peers_torch.SimpleTransformer,
    },
    "pay_better_attention": peers_torch.ReducedAttention,
    "sparse_attention": peers_torch.MultiHeadSparseAttention,
    "vit": peers_torch.ViT,
}
"""Recorded mechanism, and class where it has several of them, -> peer."""

CONVNN = tuple(inspect.signature(peers_torch.MultiHeadConvNNAttention).parameters)[2:]

LAYERS = {
    "Attention": lambda d, h, s: peers_torch.MultiHeadAttention(d, h),
    "ConvNNAttention": lambda d, h, s: peers_torch.MultiHeadConvNNAttention(d, h, **of_convnn(s)),
    "BranchConv": lambda d, h, s: peers_torch.MultiHeadBranchingConv(
        d, h, s["branch_ratio"], s["kernel_size"], **of_convnn(s)
    ),
    "BranchAttention": lambda d, h, s: peers_torch.MultiHeadBranchingAttention(d, h, s["branch_ratio"], **of_convnn(s)),
    "KvtAttention": lambda d, h, s: peers_torch.MultiHeadKvtAttention(d, h, topk=s["K"]),
    "LocalAttention": lambda d, h, s: peers_torch.MultiHeadLocalAttention(d, 128, 64, h),
    "NeighborhoodAttention": lambda d, h, s: peers_torch.NeighborhoodAttention1D(d, h, s["K"], qkv_bias=False),
    "SparseAttention": lambda d, h, s: peers_torch.MultiHeadSparseAttention(
        d, h, 0.0, s["sparse_mode"], s["sparse_context_window"]
    ),
}
"""Layer of the released ViT -> its module of so many features and heads, under the ViT's settings."""


def of_convnn(settings):
    return {name: settings[name] for name in CONVNN if name in settings}


OTHER_SOURCES = ("nlp_standard_attention", "vision_neural_attention", "vision_standard_attention")
"""Variants of a class that have no peer: their models differ in what surrounds attention."""


def peer_class(case):
    kind = CLASSES.get(case.mechanism)
    if isinstance(kind, dict):
        kind = kind.get(case.settings["cls"])
    if kind is None or str(case.settings.get("source", "")).startswith(OTHER_SOURCES):
        return None
    return None if case.mechanism == "natural_attention" and case.settings["cls"] == "Block" else kind


CASES = {path.stem: case for path in sorted(FOLDER.glob("*.npz")) if peer_class(case := read(path)) is not None}


def build(case):
    """The peer of a case, with the case's parameters."""
    kind, settings = peer_class(case), dict(case.settings)
    names = set(inspect.signature(kind).parameters)
    if kind is peers_torch.ViT:
        width, heads = settings["d_hidden"], settings["num_heads"]
        settings["attention"] = lambda: LAYERS[settings["layer"]](width, heads, settings)
        settings["image_size"] = settings["img_size"][1]
    if "candidates" in settings:
        settings["candidates"] = settings["candidates"][: settings["num_samples"]]
    if "convnn" in names:
        names |= set(CONVNN)
    module = kind(**{name: settings[name] for name in names if name in settings}).eval()
    # Released codes list a matrix that the heads share once; a branch that does not run has parameters all the same.
    loaded = module.load_state_dict({k: torch.tensor(v) for k, v in case.group("param").items()}, strict=False)
    shared = case.mechanism == "pay_better_attention" and settings["variant"] == "shared"
    assert not loaded.unexpected_keys
    assert shared or not loaded.missing_keys
    return module


def test_every_peer_has_a_case():
    tested = {peer_class(case) for case in CASES.values()}
    kinds = {value for kind in CLASSES.values() for value in (kind.values() if isinstance(kind, dict) else [kind])}
    assert tested == kinds


@pytest.mark.parametrize("name", CASES)
def test_recorded_output_and_gradients(name):
    case = CASES[name]
    module = build(case)
    inputs = {key.removeprefix("const_"): torch.tensor(value) for key, value in case.group("in").items()}
    if "layer_past" in case.settings:
        inputs = {key: value for key, value in inputs.items() if not key.startswith("past_")}
        if case.settings["layer_past"]:
            pytest.skip("the peer has no cache")
    for value in inputs.values():
        value.requires_grad_(value.is_floating_point())
    of_call = dict(inputs)
    out = module(of_call.pop("x" if "x" in inputs else "inp_q"), **of_call)
    np.testing.assert_allclose(out.detach(), case.arrays["out"], rtol=OUTPUT_RTOL, atol=OUTPUT_ATOL)

    (out * torch.tensor(case.arrays["cotangent"])).sum().backward()
    recorded, limit = case.group("grad"), max(GRADIENT_ATOL, GRADIENT_NOISES * case.noise)
    leaves = dict(module.named_parameters()) | inputs
    compared = leaves.keys() & recorded.keys()
    assert compared
    for key in compared:
        gradient = torch.zeros_like(leaves[key]) if leaves[key].grad is None else leaves[key].grad
        np.testing.assert_allclose(gradient, recorded[key], rtol=0, atol=limit, err_msg=key)


def test_the_fused_peer_is_the_same_attention():
    torch.manual_seed(0)
    plain, fused = peers_torch.MultiHeadAttention(12, 3), peers_torch.FusedAttention(12, 3, causal=True)
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(fused(x), plain(x, torch.ones(7, 7).tril()))
