"""The contract of `jattn.testing` over every mechanism."""

import functools

import pytest

from jattn.attention import FEATURES, MECHANISMS
from jattn.testing import PROPERTIES, Sizes, check_mechanism

# What is checked of each mechanism: name of the run -> (mechanism, options, forms, sizes).
RUNS = {
    "softmax": ("softmax", {}, ("bidirectional", "causal"), Sizes()),
    "softmax_with_all_options": (
        "softmax",
        {"num_key_heads": 1, "qk_norm": True, "rotary": True, "use_bias": False, "scale": 0.5},
        ("causal",),
        Sizes(head_dim=4),  # even, for rotary positions
    ),
    "conv1d": ("conv1d", {}, ("bidirectional", "causal"), Sizes()),
    "conv1d_with_all_options": ("conv1d", {"kernel_size": 4, "use_bias": False}, ("bidirectional", "causal"), Sizes()),
}
FORMS = [(run, form) for run, (_, _, forms, _) in RUNS.items() for form in forms]


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize(("run", "form"), FORMS)
def test_contract(run, form, name):
    mechanism, options, _, sizes = RUNS[run]
    factory = functools.partial(MECHANISMS[mechanism], **options)
    check_mechanism(factory, causal=form == "causal", sizes=sizes, properties=[name])


def test_every_mechanism_is_checked_in_every_form_that_it_has():
    checked = {(RUNS[run][0], form) for run, form in FORMS}
    forms = {(name, form) for name in MECHANISMS for form in ("bidirectional", "causal")}
    assert checked == {(name, form) for name, form in forms if form not in MECHANISMS[name].lacks}


def test_what_a_mechanism_lacks_is_a_feature_and_has_a_reason():
    for name, module in MECHANISMS.items():
        assert set(module.lacks) <= set(FEATURES), name
        assert all(module.lacks.values()), name
