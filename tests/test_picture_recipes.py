"""The recipes of experiments on pictures, at full size: their parameters counted by hand, and what they ask for."""

import math

import jax
import pytest

from jattn import data, models
from jattn.optim.build import build as build_optimizer
from jattn.optim.schedules import schedule
from jattn.training import losses
from tests import runs

D, MLP, LAYERS = 192, 768, 12
"""ViT-Tiny."""


def num_params(config):
    """Parameters of a config's model, and their shapes are all that is computed."""
    dataset = data.build(config.data)
    model = models.build(config.model, dataset.task, num_outputs=losses.num_outputs(config.loss, dataset.task))
    images = jax.ShapeDtypeStruct((1, *dataset.task.image_shape), "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def linear(inputs, outputs, bias=True):
    return inputs * outputs + bias * outputs


def vit_tiny(attention, classes=10, layers=LAYERS):
    """Patch embedding of 16 x 16 pixels and its norm, class token, layers, classifier without a norm before it."""
    layer = 2 * 2 * D + linear(D, MLP) + linear(MLP, D) + attention
    return linear(16 * 16 * 3, D) + 2 * D + D + layers * layer + linear(D, classes)


def shortened(words):
    """The config of as many alike layers as the source's, with only the first of them."""
    config = runs.get_config("convnn_vit", words)
    assert (config.model.depth, config.model.layers, config.model.pattern) == (LAYERS, "", "")
    config.model.depth = 1
    return config


HALF = D // 2  # of the channels, in each branch
ATTENTION = 4 * D * D
ARMS = {
    "attention": ATTENTION,
    "attention_1": ATTENTION,
    "convnn": ATTENTION + 9 * D,
    "convnn_random": ATTENTION + 9 * D,
    "convnn_spatial": ATTENTION + 9 * D,
    "branch_conv": 4 * HALF**2 + 9 * HALF + 2 * linear(HALF, HALF) + linear(9 * HALF, HALF) + linear(D, D),
    "branch_attention": 4 * HALF**2 + 9 * HALF + 4 * HALF**2 + linear(D, D),
    "kvt": ATTENTION,
    "kvt_100": ATTENTION,
    "local": 4 * D * 3 * 64,  # three heads of 64
    "neighborhood": 3 * D * D + linear(D, D),
    "sparse_local": ATTENTION,
    "sparse_strided": ATTENTION,
}
"""Parameters of one layer's attention."""


def test_every_arm_is_counted():
    assert set(ARMS) == set(runs.module("convnn_vit").ARMS)


ALIKE = {"attention_1", "convnn_spatial", "kvt_100", "sparse_strided"}
"""Arms that differ from another one in numbers of heads, candidates or keys, which no array is made of."""


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm not in ALIKE])
def test_convnn_vit_has_the_source_s_parameters(arm):
    assert num_params(shortened(f"{arm},as_published")) == vit_tiny(ARMS[arm], layers=1)


def test_all_layers_are_alike():
    assert num_params(runs.get_config("convnn_vit", "attention,as_published")) == vit_tiny(ATTENTION)


def test_the_counts_are_those_that_the_source_logged():
    assert vit_tiny(ATTENTION) == 5_479_306
    assert vit_tiny(ATTENTION + 10 * D) == 5_502_346  # ConvNN, K 10, depthwise, one head
    assert vit_tiny(ATTENTION + 9 * 64 + 64 * 64) == 5_535_370  # K 9, depthwise-separable, three heads
    assert vit_tiny(ATTENTION + 9 * 64, classes=100) == 5_503_588  # K 9, depthwise, three heads


@pytest.mark.parametrize(("words", "classes"), [("cifar100", 100), ("imagenet,as_published", 1000)])
def test_other_data_change_the_classifier_alone(words, classes):
    assert num_params(shortened(f"convnn,{words}")) == vit_tiny(ATTENTION + 9 * D, classes, layers=1)


@pytest.mark.parametrize("words", ["neural,as_published", "softmax,cifar100"])
def test_neural_cifar_has_the_source_s_parameters(words):
    width, hidden, layers, classes = 768, 1024, 12, 100 if "cifar100" in words else 10
    layer = 4 * width * width + 2 * 2 * width + linear(width, hidden) + linear(hidden, width)
    network = 2 * linear(96, 3) + linear(2 * 3, 3) + linear(3, 1) + linear(1, 1)  # d' = 96 // 32 of each head
    total = linear(8 * 8 * 3, width) + width + layers * layer + 2 * width + linear(width, classes)
    config = runs.get_config("neural_cifar", words)
    assert num_params(config) == total + ("neural" in words) * network


@pytest.mark.parametrize("name", ["convnn_vit", "neural_cifar"])
def test_as_published_trains_on_everything_and_chooses_on_the_test_set(name):
    for arg, split, valid_size in (("cifar100", "valid", 5000), ("cifar100,as_published", "test", 0)):
        config = runs.get_config(name, arg)
        assert config.validation.split == split
        assert data.build(config.data).valid_size == valid_size
        assert (config.checkpoint.best_metric, config.checkpoint.best_mode) == ("valid/accuracy", "max")
        build_optimizer(config.optim, 300_000)  # every option is one


def test_neural_cifar_halves_the_rate_of_dense_layers_after_five_epochs():
    config = runs.get_config("neural_cifar", "as_published").optim
    rate = schedule(config, 17_500_000)
    assert [float(rate(5 * 50_000 + step)) for step in (-1, 0, 10**6)] == pytest.approx([5e-5, 2.5e-5, 2.5e-5])
    assert (config.schedule_scope, config.decay_scope) == ("linear", "linear")
