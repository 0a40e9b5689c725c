"""A peer is built for the options of the module that it is compared with: both compute the same function."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jattn.attention.mechanism import mechanism
from jattn.interop.original import dump
from jattn.literals import parse_calls

torch = pytest.importorskip("torch", reason="peers are in PyTorch: pip install -r requirements-bench.txt")

from jattn.bench import peers, torch_calls  # noqa: E402

B, T, H, C = 2, 21, 3, 24

SAME = [
    ("neural(projection_dim=4, use_bias=False)", True, "neural_attention", "NeuralAttention"),
    ("softmax(use_bias=False)", True, "neural_attention", "MHSelfAttention"),
    ("adaptive_span(max_span=16, span_init=0.25, softness=4, use_bias=False)", True, "adaptive_span", None),
    (
        "adaptive_span(max_span=16, softness=3, periodic=True, period_max=9.0, use_bias=False)",
        True,
        "adaptive_span_triangle",
        None,
    ),
    ("kvt(topk=5, qkv_bias=False, use_bias=False)", False, "kvt_attention", "MultiHeadKvtAttention"),
    ("local(window_size=4, use_bias=False)", True, "local_attention", "MultiHeadLocalAttention"),
    ("neighborhood(kernel_size=5, dilation=2)", False, "neighborhood_attention_1d", "NeighborhoodAttention1D"),
    ("neighborhood(kernel_size=5)", True, "neighborhood_attention_1d", "NeighborhoodAttention1D"),
    ("sparse(mode='local', context=6, use_bias=False)", False, "sparse_attention", "MultiHeadSparseAttention"),
    ("sparse(mode='strided', context=4, use_bias=False)", False, "sparse_attention", "MultiHeadSparseAttention"),
    ("natural", True, "natural_attention", "NaturalAttention"),
]


def built(text, causal):
    (call,) = parse_calls(text)
    module = mechanism(*call).module(num_heads=H, causal=causal)
    sizes = peers.Sizes(C, T, module.head_size(C))
    return module, peers.released(peers.load(), module, sizes), sizes


@pytest.mark.parametrize(("text", "causal", "name", "cls"), SAME)
def test_peer_and_module_agree_on_the_same_weights(text, causal, name, cls):
    module, peer, _ = built(text, causal)
    x = jax.random.normal(jax.random.key(1), (B, T, C))
    variables = {"params": nn.unbox(module.init(jax.random.key(0), x)["params"])}
    state = peer.module.state_dict()
    settings = {
        "cls": cls or "AdaptiveCausalAttention",
        "source": "nlp_neural_attention",
        **dict.fromkeys(("heads", "num_heads", "n_head"), H),
        **dict.fromkeys(("dim", "d_hidden", "n_embd"), C),
        "use_triangle_wave_masking": "periodic" in text,
        "dim_head": C // H,
        "qkv_bias": name == "neighborhood_attention_1d",
    }
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    released = dump(name, settings, variables, shapes)
    peer.module.load_state_dict({key: torch.tensor(np.asarray(value)) for key, value in released.items()})
    found = peer.module.eval()(torch.tensor(np.asarray(x)), **peer.arguments)
    np.testing.assert_allclose(found.detach(), module.apply(variables, x), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", sorted(peers.RELEASED))
def test_every_mechanism_has_a_peer_that_can_be_measured(name):
    options = {"adaptive_span": "(max_span=8)", "kvt": "(topk=4)", "sparse": "(mode='all')"}.get(name, "")
    options = options or ("(K=3)" if name == "convnn" else "(K=3, kernel_size=3)" if name == "branching_conv" else "")
    options = options or ("(K=3)" if name == "branching_attention" else "")
    _, peer, sizes = built(name + options, name in ("adaptive_span", "neural"))
    part = "module" if name.startswith("branching") else "kernel"
    found = torch_calls.candidate(peer, sizes, B, dtype="float32", train=True, part=part)
    assert found.scratch_bytes > 0
    assert found.run()[0] is not None


@pytest.mark.parametrize(
    ("text", "causal", "why"),
    [
        ("convnn(K=3)", True, "no causal form"),
        ("adaptive_span(max_span=8)", False, "is causal"),
        ("softmax(num_key_heads=1)", True, "no option num_key_heads=1"),
        ("neural(hidden_dims=(3,))", True, "shared by the heads"),
        ("sparse(mode='fixed')", False, "no fixed pattern"),
        ("local(window_size=4, rotary=False)", True, "always has rotary"),
        ("softmax(rotary=True)", True, "no option rotary=True"),
    ],
)
def test_what_has_no_peer_says_why(text, causal, why):
    with pytest.raises(peers.NoPeer, match=why):
        built(text, causal)


def test_flex_attention_is_the_same_attention():
    loaded = peers.load()
    torch.manual_seed(0)
    x = torch.randn(B, T, 48)
    for text, causal in (
        ("softmax", True),
        ("neighborhood(kernel_size=5, dilation=2)", False),
        ("neighborhood(kernel_size=5)", True),
        ("sparse(mode='local', context=6)", False),
        ("sparse(mode='strided', context=4)", False),
    ):
        (call,) = parse_calls(text)
        module = mechanism(*call).module(num_heads=H, causal=causal)
        peer = peers.released(loaded, module, peers.Sizes(48, T, 16)).module
        with torch.no_grad():
            found = loaded.flex_attention_of(peer, compiled=False).kernel(*peer.heads(x))
            torch.testing.assert_close(found, peer.kernel(*peer.heads(x)), rtol=1e-4, atol=1e-5)


def test_scratch_is_what_is_freed_again():
    events = [(1, 8), (2, 100), (3, 16), (1, -8), (1, 4), (3, -16), (9, -50), (1, -4)]
    assert torch_calls.peak_of_freed(events) == 24  # 2 is returned, 9 was there before
    big = torch.ones(1000, 1000)
    assert torch_calls.scratch_bytes(torch, lambda: (big * 2 + big).sum()) == pytest.approx(8e6, rel=0.01)
    assert torch_calls.scratch_bytes(torch, lambda: big * 2) < 1e5
