"""What the neural attention repository's classes do with masks and causality, and how a version is recognised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.interop.original import load, original
from jattn.interop.original.neural import PeekingLanguageModel, completed
from jattn.models import LanguageModel, VisionTransformer
from tests import calls

DIM, HEADS, LENGTH = 6, 2, 5
RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def attention(prefix=""):
    return {f"{prefix}to_qkv.weight": 0.3 * draw(3 * DIM, DIM), f"{prefix}W_out.weight": draw(DIM, DIM)}


def attend(settings, mask, hidden):
    """Outputs without a mask and with one, and what is expected where these pairs are hidden."""
    settings = {"cls": "MHSelfAttention", "dim": DIM, "heads": HEADS} | settings
    params, x = attention(), draw(2, LENGTH, DIM)
    module, variables = load("neural_attention", settings, params)
    call = original("neural_attention", settings).call
    run = jax.jit(lambda inputs: call(module, variables, inputs))
    outputs = [run(inputs) for inputs in ({"x": x}, {"x": x, "mask": mask})]
    kernels = params["to_qkv.weight"].reshape(-1, 3, HEADS, DIM)  # rows are ordered (feature, q | k | v, head)
    q, k, v = (np.einsum("btc,dhc->bhtd", x, kernels[:, i]) for i in range(3))
    scores = np.where(hidden, -np.inf, np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(DIM // HEADS))
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    merged = np.einsum("bhts,bhsd->bthd", weights, v).reshape(2, LENGTH, DIM)
    return *outputs, merged @ params["W_out.weight"].T


HIDDEN = np.arange(LENGTH)[:, None] + 2 < np.arange(LENGTH)[None]


@pytest.mark.parametrize("shape", [(LENGTH, LENGTH), (HEADS, LENGTH, LENGTH), (2, 1, LENGTH, LENGTH)])
def test_a_mask_hides_pairs_and_broadcasts(shape):
    mask = np.broadcast_to(HIDDEN, shape) & (RNG.random(shape) < 0.7)
    without, found, expected = attend({"causal": False}, mask, mask)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(without - expected).max() > 1e-3


def test_causal_attention_and_that_of_the_vision_projects_ignore_masks():
    later = np.triu(np.ones((LENGTH, LENGTH), bool), 1)
    for settings, hidden in (({"causal": True}, later), ({}, np.zeros_like(later))):
        without, found, expected = attend(settings, HIDDEN.T, hidden)
        np.testing.assert_array_equal(without, found)
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_version_is_told_by_its_source_or_by_its_parameters():
    def source(settings, *names):
        return completed({"cls": "SimpleTransformer"} | settings, dict.fromkeys(names, jnp.zeros(1)))["source"].split(
            "/"
        )[0]

    assert source({}, "token_emb.weight", "layers.0.attention.to_qkv.weight") == "nlp_neural_attention"
    assert source({}, "token_emb.weight", "layers.0.mhsa.to_qkv.weight") == "nlp_standard_attention"
    assert source({}, "token_emb.cls_token", "layers.0.attention.to_qkv.weight") == "vision_neural_attention"
    assert source({}, "token_emb.cls_token", "layers.0.mhsa.to_qkv.weight") == "vision_standard_attention"
    assert source({"source": "vision_standard_attention/Models/a.py"}) == "vision_standard_attention"
    assert completed({"cls": "TransformerBlock", "heads": 3}, {})["heads"] == 3
    assert not completed({"cls": "TransformerBlock"}, {})["causal"]


def transformer(settings, attention_name, embedding):
    """Our module for a released model of one layer."""
    params = {f"layers.0.{attention_name}.{name}": value for name, value in attention().items()}
    params |= {f"layers.0.norm_{i}.{name}": draw(DIM) for i in (1, 2) for name in ("weight", "bias")}
    params |= {"layers.0.linear.0.weight": draw(1024, DIM), "layers.0.linear.0.bias": draw(1024)}
    params |= {"layers.0.linear.3.weight": draw(DIM, 1024), "layers.0.linear.3.bias": draw(DIM)}
    params |= {"to_logits.0.weight": draw(DIM), "to_logits.0.bias": draw(DIM)}
    params |= {"to_logits.1.weight": draw(7, DIM), "to_logits.1.bias": draw(7)} | embedding
    settings = {
        "cls": "SimpleTransformer",
        "dim": DIM,
        "heads": HEADS,
        "num_layers": 1,
        "num_unique_tokens": 7,
    } | settings
    return load("neural_attention", settings, params)


def test_only_a_language_model_asked_for_it_sees_later_tokens():
    embedding, tokens = {"token_emb.weight": draw(7, DIM)}, np.arange(LENGTH, dtype=np.int32)[None] % 7
    changed = np.where(np.arange(LENGTH) == LENGTH - 1, np.int32(6), tokens)
    for causal, kind in ((True, LanguageModel), (False, PeekingLanguageModel)):
        model, variables = transformer({"causal": causal}, "mhsa", embedding)
        assert type(model) is kind
        before, after = (calls.apply(model, variables, x)[0, 0] for x in (tokens, changed))
        assert np.allclose(before, after, atol=1e-6) == causal


def test_the_vision_model_scales_its_patches_by_one_less_than_the_neural_language_model():
    patches = {"cls_token": draw(1, 1, DIM), "projection.0.weight": draw(DIM, 3, 8, 8), "projection.0.bias": draw(DIM)}
    model, _ = transformer({}, "mhsa", {f"token_emb.{name}": value for name, value in patches.items()})
    assert type(model) is VisionTransformer
    assert model.embedding_scale == 1 + DIM**0.5
    neural, _ = transformer({}, "attention", {"token_emb.weight": draw(7, DIM)})
    assert neural.embedding_scale == 2 + DIM**0.5
