"""Generation with the cache against the whole model, whatever the batch, the lengths and the pieces."""

import jax
import numpy as np
import pytest

from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from jattn.generation import Generation, Sampling, generate
from jattn.models import LanguageModel, VisionTransformer
from tests import calls

V, CONTEXT = 13, 12
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7]]
LAYERS = {
    "softmax": ({"num_key_heads": 1}, "learned"),
    "neural": ({"projection_dim": 2}, "rotary"),
    "local": ({"window_size": 3}, "sinusoidal"),
}
"""Mechanisms with their options, each with another kind of positions; the cache of `local` is shorter than a text."""


def made(name="softmax", **options):
    """A model with random matrices, so large that likeliest tokens differ."""
    layer, positions = LAYERS[name]
    sizes = {"vocab_size": V, "width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 11, "max_length": CONTEXT}
    model = LanguageModel(**(sizes | {"positions": positions, "attention": mechanism(name, layer)} | options))
    shapes = calls.shapes(model, np.zeros((1, CONTEXT), np.int32))["params"]
    rng = np.random.default_rng(0)

    def values(path, leaf):
        """Vectors (biases, scales of norms) are not random, or it would say the same whatever it has read."""
        if leaf.ndim > 1:
            return rng.standard_normal(leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, path[-1].key == "scale", leaf.dtype)

    return model, jax.tree.map_with_path(values, shapes)


@pytest.fixture(scope="module")
def softmax():
    return made()


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("name", LAYERS)
def test_greedy_text_is_the_likeliest_token_of_the_whole_model(name):
    model, params = made(name)
    found = generate(model, params, PROMPTS, keys(3), max_tokens=4, sampling=Sampling(temperature=0))
    assert [len(text) for text in found] == [4, 4, 4]
    padded = np.zeros((3, CONTEXT), np.int32)
    for row, prompt, text in zip(padded, PROMPTS, found, strict=True):
        row[: len(prompt) + 4] = [*prompt, *text]
    logits = calls.apply(model.clone(implementation="dense"), {"params": params}, padded)
    for row, prompt, text in zip(logits, PROMPTS, found, strict=True):
        expected = np.argmax(row[len(prompt) - 1 : len(prompt) + 3], axis=-1)
        np.testing.assert_array_equal(text, expected)
    assert len({tuple(text) for text in found}) == 3
    assert len(set(np.concatenate(found))) > 2


def test_a_text_is_a_function_of_its_prompt_and_key(softmax):
    together = generate(*softmax, PROMPTS, keys(3), max_tokens=8)
    (alone,) = generate(*softmax, PROMPTS[2:], keys(3)[2:], max_tokens=8)  # its prompt in one pass, not token by token
    np.testing.assert_array_equal(alone, together[2])
    other = generate(*softmax, PROMPTS, keys(3, seed=1), max_tokens=8)
    assert any(not np.array_equal(a, b) for a, b in zip(together, other, strict=True))


def test_each_token_is_drawn_anew(softmax):
    """Where all tokens are equally likely, a text that repeats one has used one draw again and again."""
    nothing = jax.tree.map(np.zeros_like, softmax[1])
    for text in generate(softmax[0], nothing, PROMPTS, keys(3), max_tokens=8):
        assert len(set(text.tolist())) > 2


def test_pieces_join_to_the_same_text(softmax):
    whole = generate(*softmax, PROMPTS, keys(3), max_tokens=8)
    texts = Generation(*softmax, PROMPTS, keys(3), max_tokens=8)
    # One token more than the shortest prompt has is there at first, of the others the prompt.
    assert [len(text) for text in texts.tokens()] == [0, 1, 0]
    seen = []
    while not texts.done:
        texts.advance(2)
        seen.append([text.copy() for text in texts.tokens()])
    texts.advance(2)
    for i in range(3):
        np.testing.assert_array_equal(texts.tokens()[i], whole[i])
        for piece in seen:
            np.testing.assert_array_equal(piece[i], whole[i][: len(piece[i])])


def test_texts_end_where_the_context_does(softmax):
    texts = Generation(*softmax, PROMPTS, keys(3), max_tokens=8)
    assert texts.context == CONTEXT
    texts.advance()
    assert [len(text) for text in texts.tokens()] == [7, 8, 6]
    np.testing.assert_array_equal(texts.ends, [12, 11, 12])


@pytest.mark.parametrize(
    ("prompts", "options", "says"),
    [
        ([[]], {}, "the prompt is empty"),
        ([], {}, "there is no prompt"),
        ([[1] * 12], {}, "the prompt has 12 tokens and the model's context 12 .* at most 11 tokens"),
        ([[1, 13]], {}, "tokens outside of 0 to 12"),
        ([[1]], {"max_tokens": 0}, "max_tokens=0 must be at least 1"),
    ],
)
def test_what_cannot_be_continued(softmax, prompts, options, says):
    with pytest.raises(UserError, match=says):
        generate(*softmax, prompts, keys(1), **({"max_tokens": 2} | options))


def test_a_classifier_writes_no_text():
    with pytest.raises(UserError, match="by a language model, not by a VisionTransformer"):
        generate(VisionTransformer(num_outputs=3), {}, [[1]], keys(1), max_tokens=1)
