import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jattn.config import LossConfig
from jattn.errors import UserError
from jattn.task import Task
from jattn.training.losses import LOSSES, correct, correct_in_top, num_outputs, weighted

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 7)) * 3, jnp.float32)
TARGETS = jnp.asarray(np.random.default_rng(1).integers(0, 7, (3, 5)))
ONE_HOT = np.eye(7)[np.asarray(TARGETS)]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy(smoothing):
    share = (1 - smoothing) * ONE_HOT + smoothing / 7
    expected = -np.sum(share * log_softmax(np.asarray(LOGITS, np.float64), axis=-1), axis=-1)
    actual = LOSSES["cross_entropy"](LOGITS, TARGETS, smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_smoothed_cross_entropy_of_equal_logits_is_the_entropy():
    actual = LOSSES["cross_entropy"](jnp.zeros((2, 8)), jnp.array([0, 5]), 0.1)
    np.testing.assert_allclose(actual, np.log(8), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_binary_cross_entropy_is_that_of_two_classes(smoothing):
    logits, targets = LOGITS[..., :1], TARGETS % 2
    two = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    expected = LOSSES["cross_entropy"](two, targets, smoothing)
    actual = LOSSES["binary_cross_entropy"](logits, targets, smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_binary_cross_entropy_of_large_logits_is_finite():
    logits, targets = jnp.array([[200.0], [-200.0]]), jnp.array([0, 0])
    actual = LOSSES["binary_cross_entropy"](logits, targets)
    np.testing.assert_allclose(actual, [200.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_mean_squared_error_is_a_mean_over_outputs(smoothing):
    share = (1 - smoothing) * ONE_HOT + smoothing / 7
    actual = LOSSES["mean_squared_error"](LOGITS, TARGETS, smoothing)
    np.testing.assert_allclose(actual, np.mean((np.asarray(LOGITS) - share) ** 2, axis=-1), rtol=1e-5)


def test_correct():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert correct(logits, jnp.array([1, 1])).tolist() == [True, False]


def test_one_logit_is_thresholded_at_zero():
    logits = jnp.array([[0.4], [-0.1], [0.4], [-0.1]])
    assert correct(logits, jnp.array([1, 1, 0, 0])).tolist() == [True, False, False, True]


def test_one_logit_is_thresholded_elsewhere_where_asked():
    # The released IMDB experiment compares the logit, not the probability, with 0.5.
    logits, targets = jnp.array([[0.4], [0.6], [0.4], [0.6]]), jnp.array([1, 1, 0, 0])
    assert correct(logits, targets, 0.5).tolist() == [False, True, True, False]
    assert correct(logits, targets).tolist() == [True, True, False, False]


def test_top_5():
    logits = jnp.tile(jnp.array([9.0, 3.0, 8.0, 4.0, 7.0, 5.0, 6.0]), (7, 1))
    expected = [True, False, True, False, True, True, True]
    assert correct_in_top(logits, jnp.arange(7)).tolist() == expected


def test_weighted_ignores_what_has_no_weight():
    values = jnp.array([1.0, np.nan, 2.0, np.inf])
    total, count = weighted(values, jnp.array([1.0, 0.0, 3.0, 0.0]))
    assert (float(total), float(count)) == (7.0, 4.0)


def test_outputs_that_a_loss_wants():
    assert num_outputs(LossConfig("cross_entropy"), Task("image", num_classes=2)) is None
    assert num_outputs(LossConfig("binary_cross_entropy"), Task("text", num_classes=2)) == 1


@pytest.mark.parametrize(
    ("config", "task", "message"),
    [
        (LossConfig("cross_entrpy"), Task("image", num_classes=2), "did you mean 'cross_entropy'"),
        (LossConfig("binary_cross_entropy"), Task("image", num_classes=10), "this data set has 10 classes"),
        (LossConfig("binary_cross_entropy"), Task("language", vocab_size=256), "this data set has tokens"),
        (LossConfig(threshold=0.5), Task("text", num_classes=2), "loss.threshold=0.5 is that of a single logit"),
        (LossConfig(label_smoothing=1.0), Task("image", num_classes=2), "label_smoothing=1.0"),
    ],
)
def test_what_a_user_can_get_wrong(config, task, message):
    with pytest.raises(UserError, match=message):
        num_outputs(config, task)
