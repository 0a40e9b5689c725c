"""The contract of `jattn.testing` over every mechanism."""

import functools

import pytest

from jattn.attention import FEATURES, MECHANISMS
from jattn.testing import PROPERTIES, Sizes, check_mechanism

SLICES = Sizes(head_dim=None, width=15)  # of mechanisms whose heads are slices of the width

# What is checked of each mechanism: name of the run -> (mechanism, options, forms, sizes).
RUNS = {
    "adaptive_span": ("adaptive_span", {"max_span": 5, "softness": 2}, ("bidirectional", "causal"), Sizes()),
    "adaptive_span_periodic": (
        "adaptive_span",
        {
            "max_length": 7,
            "softness": 1.5,
            "span_init": 0.9,
            "span_reg": 0.1,
            "periodic": True,
            "period_min": 1.5,
            "period_max": 6,
            "harmonics": 3,
            "use_bias": False,
        },
        ("causal",),
        Sizes(),
    ),
    "adaptive_span_frozen": (
        "adaptive_span",
        {"max_span": 5, "softness": 2, "periodic": True, "distances": ((0, 1, 4), (0, 2), (0, 1, 3, 5))},
        ("causal",),
        Sizes(),
    ),
    "softmax": ("softmax", {}, ("bidirectional", "causal"), Sizes()),
    "softmax_with_all_options": (
        "softmax",
        {"num_key_heads": 1, "qk_norm": True, "rotary": True, "use_bias": False, "scale": 0.5},
        ("causal",),
        Sizes(head_dim=4),  # even, for rotary positions
    ),
    "neural": ("neural", {}, ("bidirectional", "causal"), Sizes()),
    "neural_with_all_options": (
        "neural",
        {"projection_dim": 3, "hidden_dims": (5, 3, 2), "shared_network": False, "use_bias": False},
        ("causal",),
        Sizes(),
    ),
    "natural": ("natural", {}, ("bidirectional", "causal"), Sizes()),
    "natural_with_all_options": (
        "natural",
        {"head_mask": (1, 0.5, 0), "energy_statistic": "standard_deviation", "use_bias": False},
        ("causal",),
        Sizes(),
    ),
    "branching_attention": ("branching_attention", {"K": 3}, ("bidirectional", "causal"), Sizes()),
    "branching_attention_with_all_options": (
        "branching_attention",
        {
            "branch_ratio": 0.7,
            "K": 4,
            "sampling_type": "spatial",
            "num_samples": 5,
            "magnitude_type": "euclidean",
            "convolution_type": "standard",
            "softmax_topk_val": False,
            "coordinate_encoding": True,
            "max_length": 7,
            "num_key_heads": 1,
            "qk_norm": True,
            "use_bias": False,
        },
        ("causal",),
        Sizes(),
    ),
    "branching_conv": ("branching_conv", {"K": 3}, ("bidirectional", "causal"), Sizes()),
    "branching_conv_with_all_options": (
        "branching_conv",
        {"branch_ratio": 0.3, "K": 4, "magnitude_type": "cosine", "kernel_size": 4, "use_bias": False},
        ("bidirectional",),
        Sizes(),
    ),
    "conv1d": ("conv1d", {}, ("bidirectional", "causal"), Sizes()),
    "conv1d_with_all_options": ("conv1d", {"kernel_size": 4, "use_bias": False}, ("bidirectional",), Sizes()),
    "convnn": ("convnn", {}, ("bidirectional", "causal"), Sizes()),
    "convnn_spatial": (
        "convnn",
        {
            "K": 3,
            "sampling_type": "spatial",
            "num_samples": 4,
            "sample_padding": 1,
            "magnitude_type": "cosine",
            "convolution_type": "standard",
            "softmax_topk_val": False,
            "coordinate_encoding": True,
            "max_length": 7,
            "use_bias": False,
        },
        ("causal",),
        Sizes(),
    ),
    "convnn_random": (
        "convnn",
        {
            "K": 3,
            "sampling_type": "random",
            "num_samples": 4,
            "magnitude_type": "euclidean",
            "convolution_type": "depthwise-separable",
            "max_length": 7,
        },
        ("bidirectional",),
        Sizes(),
    ),
    "kvt": ("kvt", {"topk": 3}, ("bidirectional", "causal"), Sizes()),
    "kvt_with_all_options": (
        "kvt",
        {"topk": 2, "qkv_bias": True, "qk_scale": 0.7, "use_bias": False},
        ("causal",),
        Sizes(),
    ),
    "optimised": ("optimised", {}, ("bidirectional", "causal"), Sizes(head_dim=7, width=15)),
    "efficient": ("efficient", {}, ("bidirectional", "causal"), SLICES),
    "super": ("super", {"max_length": 19}, ("bidirectional", "causal"), SLICES),
    "super_with_all_options": (
        "super",
        {"max_length": 19, "shared": False, "token_bias": True, "use_bias": False},
        ("causal",),
        SLICES,
    ),
    "neighborhood": ("neighborhood", {"kernel_size": 3}, ("bidirectional", "causal"), Sizes()),
    "neighborhood_with_all_options": (
        "neighborhood",
        {"kernel_size": 3, "dilation": 2, "qkv_bias": False, "qk_scale": 0.7},
        ("bidirectional",),
        Sizes(),
    ),
    "sparse": ("sparse", {"context": 2}, ("bidirectional", "causal"), Sizes()),
    "sparse_strided": ("sparse", {"mode": "strided", "context": 3}, ("bidirectional",), Sizes()),
    "sparse_fixed": ("sparse", {"mode": "fixed", "context": 3, "summary": 2}, ("causal",), Sizes()),
    "local": ("local", {"window_size": 2}, ("bidirectional", "causal"), Sizes(head_dim=4)),
    "local_with_whole_blocks": (
        "local",
        {
            "window_size": 3,
            "exact_windowsize": False,
            "use_xpos": True,
            "xpos_scale_base": 16,  # with less, scores of later keys are in the hundreds
            "qk_rmsnorm": True,
            "gate_values_per_head": True,
            "prenorm": True,
            "attention_bias": True,
            "use_bias": False,
        },
        ("bidirectional",),
        Sizes(head_dim=4),
    ),
}
FORMS = [(run, form) for run, (_, _, forms, _) in RUNS.items() for form in forms]

# Of options, beside what their own tests say of them: that they keep what is easily lost with them.
WITH_OPTIONS = {"causality", "padding", "segments", "decode", "bfloat16", "implementations", "gradients", "weights"}
WITH_OPTIONS |= {"energies", "cost"}
CHECKS = [(run, form, name) for run, form in FORMS for name in PROPERTIES if run in MECHANISMS or name in WITH_OPTIONS]


@pytest.mark.parametrize(("run", "form", "name"), CHECKS, ids=["-".join(check) for check in CHECKS])
def test_contract(run, form, name):
    mechanism, options, _, sizes = RUNS[run]
    factory = functools.partial(MECHANISMS[mechanism], **options)
    check_mechanism(factory, causal=form == "causal", sizes=sizes, properties=[name])


def test_every_mechanism_is_checked_in_every_form_that_it_has():
    checked = {(run, form) for run, form in FORMS if run in MECHANISMS}
    assert all(RUNS[run][0] == run for run, _ in checked)
    for name in PROPERTIES:
        assert checked <= {(run, form) for run, form, other in CHECKS if other == name}
    forms = {(name, form) for name in MECHANISMS for form in ("bidirectional", "causal")}
    assert checked == {(name, form) for name, form in forms if form not in MECHANISMS[name].lacks}


def test_what_a_mechanism_lacks_is_a_feature_and_has_a_reason():
    for name, module in MECHANISMS.items():
        assert set(module.lacks) <= set(FEATURES), name
        assert all(module.lacks.values()), name
