"""The recipes of experiments on text, at full size: their parameters counted by hand, and what they ask for.

Their vocabularies and texts are not read: a task says how many tokens there are.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jattn import models
from jattn.data import DATASETS
from jattn.data.options import check_options
from jattn.interop.original import neural, reduced
from jattn.literals import parse_options
from jattn.models.summary import abstract_inputs
from jattn.optim.build import DECAY_SCOPES, build
from jattn.optim.parameters import path_name
from jattn.training import initialization, losses, setup
from tests import runs
from tests.runs import BERT, BYTES, GPT2, TASKS, WORDS


def linear(inputs, outputs, bias=True):
    return inputs * outputs + bias * outputs


def made(name, words="", depth=None):
    """A config and its model, sized for the task that its data would have; None: of the config's own depth."""
    config = runs.get_config(name, words)
    config.model.depth = depth or config.model.depth
    num_outputs = losses.num_outputs(config.loss, TASKS[name])
    return config, models.build(config.model, TASKS[name], num_outputs=num_outputs)


@functools.cache
def params(name, words="", depth=None):
    """Shapes of the parameters; nothing is computed."""
    _, model = made(name, words, depth)
    tokens = abstract_inputs(TASKS[name], 1)
    return nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens)["params"])


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def neural_language_model(network):
    """Embeddings, 8 layers without biases in attention, a norm and logits with bias; the network of one layer."""
    d, mlp = 512, 1024
    layer = 4 * d * d + linear(d, mlp) + linear(mlp, d) + 2 * 2 * d
    return BERT * d + 8 * layer + 2 * d + linear(d, BERT) + network


NETWORK = 2 * linear(64, 2) + linear(4, 2) + linear(2, 1) + linear(1, 1)
"""d' = 64 // 32: queries and keys to 2 features, 4 -> 2 -> 1 -> 1."""


@pytest.mark.parametrize(("words", "network"), [("as_published", NETWORK), ("standard", 0)])
def test_neural_attention_s_language_model(words, network):
    assert count(params("neural_wikitext103", words)) == neural_language_model(network)
    assert round(neural_language_model(network) / 1e6, 1) == 46.5  # as the source prints it


def test_gpt2_of_two_layers():
    d = 64
    block = 2 * 2 * d + linear(d, 3 * d) + linear(d, d) + linear(d, 4 * d) + linear(4 * d, d)
    for words in ("natural,as_published", "standard"):
        assert count(params("natural_wikitext2", words)) == GPT2 * d + 32 * d + 2 * block + 2 * d


REDUCED = {
    "sdpa": 4 * linear(32, 32),
    "optimised": 3 * linear(32, 32),
    "efficient": 2 * linear(32, 32),
    "super": 2 * linear(32, 32) + linear(32, 32),  # the last is W_A, over 32 tokens
    "super_per_head": 2 * linear(32, 32) + 4 * linear(32, 32),
}
"""Parameters of attention, as the source counts them."""


@pytest.mark.parametrize("arm", REDUCED)
def test_reduced_attention_on_imdb(arm):
    d = 32
    rest = WORDS * d + 32 * d + linear(d, 32) + linear(32, d) + 2 * 2 * d + linear(d, 6) + linear(6, 1)
    found = params("reduced_imdb", f"{arm},as_published")
    assert count(found["block_0"]["attention"]) == REDUCED[arm]
    assert count(found) == rest + REDUCED[arm]
    if "super" in arm:  # Keras' W_A has no bias
        keras = count(params("reduced_imdb", f"{arm},keras")["block_0"]["attention"])
        assert REDUCED[arm] - keras == (32 if arm == "super" else 4 * 32)


@pytest.mark.parametrize(("words", "of_a_head"), [("off", 0), ("as_published", 3)])
def test_adaptive_nanogpt(words, of_a_head):
    """No biases, a table of positions for each layer, one table of tokens at both ends; z, and P and rho, of a head."""
    d = 512
    block = 2 * d + linear(d, 3 * d, bias=False) + d * d + 2 * 4 * d * d + 8 * of_a_head
    assert count(params("adaptive_enwik8", words)) == BYTES * d + 12 * (512 * d + block) + d


@pytest.mark.parametrize(
    ("words", "sizes", "millions"), [("", (512, 2048, 12), 38), ("large", (768, 4096, 24), 209), ("off", None, 38)]
)
def test_adaptive_span(words, sizes, millions):
    """The paper's has 64 (or 96) x 8192 more, which embed distances, and 205 tokens."""
    d, mlp, layers = sizes or (512, 2048, 12)
    layer = 4 * d * d + linear(d, mlp) + linear(mlp, d) + 2 * 2 * d + 8 * (words != "off")
    config, _ = made("adaptive_span_enwik8", words)
    assert (config.model.depth, config.model.layers, config.model.pattern) == (layers, "", "")
    ends = BYTES * d + linear(d, BYTES)
    assert count(params("adaptive_span_enwik8", words, depth=2)) == ends + 2 * layer
    assert abs((ends + layers * layer + 8192 * d // 8) / 1e6 - millions) < 1


def alike(ours, theirs, head_dim):
    """Whether two models compute the same in evaluation, as far as options tell: their layers too."""
    rates = {field.name: 0.0 for field in dataclasses.fields(ours) if field.name.endswith("dropout_rate")}
    assert dataclasses.replace(ours, **rates) == dataclasses.replace(theirs, **rates, attention=ours.attention)
    for mine, other in zip(ours.mechanisms(), theirs.mechanisms(), strict=True):
        causal = ours.causal
        made = [layer.module(num_heads=ours.num_heads, causal=causal) for layer in (mine, other)]
        sizes = {name: head_dim for name in ("head_dim", "value_dim") if hasattr(made[0], name)}
        assert dataclasses.replace(made[0], **sizes) == dataclasses.replace(made[1], **sizes)


@pytest.mark.parametrize("arm", ["neural", "standard"])
def test_as_published_is_the_released_language_model(arm):
    """Whose outputs and gradients are compared with recorded ones: tests/verify."""
    settings = {"cls": "SimpleTransformer", "dim": 512, "num_unique_tokens": BERT, "num_layers": 8, "heads": 8}
    settings |= {"source": f"nlp_{arm}_attention/", "max_seq_len": 1024, "causal": True}
    theirs = neural.transformer(neural.completed(settings, {}))
    alike(made("neural_wikitext103", f"{arm},as_published")[1], theirs, 64)


@pytest.mark.parametrize(
    ("arm", "layer_type"),
    [("sdpa", "SDPA"), ("efficient", "Efficient"), ("super", "Super"), ("super_per_head", "Super")],
)
def test_as_published_is_the_released_classifier(arm, layer_type):
    settings = {"d_model": 32, "n_heads": 4, "d_lin": 32, "n_layers": 1, "vocab_size": WORDS, "max_len": 32}
    settings |= {"layer_type": layer_type, "shared_W_a": arm == "super"}
    config, ours = made("reduced_imdb", f"{arm},as_published")
    alike(ours, reduced.transformer(settings), 8)
    assert config.loss.threshold == 0.5


ARMS = {
    "neural_wikitext103": ("neural", "standard"),
    "natural_wikitext2": ("natural", "standard"),
    "reduced_imdb": ("sdpa", "optimised", "efficient", "super", "super_per_head"),
    "adaptive_enwik8": ("span_periodic", "span", "off"),
    "adaptive_span_enwik8": ("span", "off"),
}


@pytest.mark.parametrize("name", ARMS)
def test_arms_differ_in_attention_alone(name):
    """And natural attention in what its optimizer reads."""
    configs = [runs.get_config(name, arm) for arm in ARMS[name]]
    assert len({str((c.model.attention, c.model.layers)) for c in configs}) == len(configs)
    for config in configs:
        config.model.attention, config.model.layers = configs[0].model.attention, configs[0].model.layers
        config.optim.attention_informed = "off"
    assert all(config == configs[0] for config in configs)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_has_data_a_plan_an_optimizer_and_initial_values(name):
    others = {"adaptive_span_enwik8": ("large",), "reduced_imdb": ("keras", "keras,as_published", "as_published")}
    for words in (*ARMS[name], *others.get(name, ("as_published",))):
        config, _ = made(name, words)
        check_options(name, DATASETS[config.data.name], parse_options(config.data.options))
        plan = setup.make_plan(config, train_size=40_000)
        build(config.optim, plan.total)
        initialization.check(config.model.initialization)
        assert plan.total >= 460


def decaying(name, words):
    config, _ = made(name, words)
    scope = DECAY_SCOPES[config.optim.decay_scope]
    small = jax.tree.map(lambda leaf: jnp.zeros((1,) * len(leaf.shape)), params(name, words))
    kept = jax.tree.map(lambda _: True, small) if scope is None else scope(small)
    return {path_name(path) for path, decays in jax.tree.leaves_with_path(kept) if decays}


def test_what_decays_is_what_decays_in_the_source():
    """Weights of linear layers; all; matrices and tables."""
    first = decaying("neural_wikitext103", "as_published")
    assert {"output/kernel", "block_0/attention/score/query_kernel", "block_7/mlp/hidden/kernel"} < first
    assert not any("embedding" in name or name.endswith(("bias", "scale")) for name in first)
    assert len(decaying("natural_wikitext2", "standard")) == len(
        jax.tree.leaves(params("natural_wikitext2", "standard"))
    )
    third = decaying("adaptive_enwik8", "as_published")
    assert {"token_embedding/embedding", "position_embedding_3/embedding", "block_1/attention/out/kernel"} < third
    assert not any("logit" in name or name.endswith("scale") for name in third)


def test_as_published_predicts_on_what_the_source_does():
    config = runs.get_config("neural_wikitext103", "as_published")
    assert config.validation.split == "test"
    assert runs.get_config("neural_wikitext103").validation.split == "valid"
    config, model = made("natural_wikitext2", "as_published")
    assert "ahead=2" in config.data.options
    assert not model.causal
    assert made("natural_wikitext2", "standard,as_published")[1].causal
    assert made("reduced_imdb", "as_published")[1].padding_token is None


def test_the_trainer_draws_the_initial_values_of_the_recipe():
    config = runs.get_config("reduced_imdb", "super,listops,smoke")
    params = setup.build(config).parallel.init_state().params
    assert 0.9 < jnp.std(params["token_embedding"]["embedding"]) < 1.1  # ours: 1/4
    assert jnp.any(params["block_0"]["mlp"]["hidden"]["bias"])
