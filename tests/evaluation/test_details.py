"""Confusion, calibration and spans, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention.mechanism import mechanism
from jattn.config import LossConfig
from jattn.evaluation.details import calibration, classes, detailed, predictions
from jattn.evaluation.spans import spans
from jattn.models import LanguageModel
from jattn.task import Task

THREE = Task("image", num_classes=3, image_shape=(1, 1, 1))


def sums(probabilities, targets, weight, bins=5, task=THREE):
    measure = jax.jit(detailed(LossConfig(), task, bins))
    return measure(np.log(np.float32(probabilities)), np.asarray(targets), np.float32(weight))


def test_predictions_are_counted_by_confidence_and_by_class():
    found = sums(
        [[0.7, 0.2, 0.1], [0.1, 0.75, 0.15], [0.5, 0.2, 0.3], [0.05, 0.05, 0.9], [0.3, 0.3, 0.4]],
        [0, 2, 0, 2, 1],
        [1, 1, 1, 1, 0],
    )
    np.testing.assert_array_equal(found["confusion"], [[2, 0, 0], [0, 0, 0], [0, 1, 1]])
    expected = [[0, 0, 0], [0, 0, 0], [1, 0.5, 1], [2, 1.45, 1], [1, 0.9, 1]]
    np.testing.assert_allclose(found["reliability"], expected, atol=1e-6)
    result = calibration(np.asarray(found["reliability"], np.float64))
    assert result["expected_calibration_error"] == pytest.approx((0.5 + 0.45 + 0.1) / 4)
    assert result["bins"][0] == {"from": 0.0, "to": 0.2, "predictions": 0, "confidence": None, "accuracy": None}
    assert result["bins"][3] == pytest.approx(
        {"from": 0.6, "to": 0.8, "predictions": 2, "confidence": 0.725, "accuracy": 0.5}
    )


def test_classes_without_examples_have_no_recall():
    found = classes(np.array([[3.0, 0.5, 0.0], [2.0, 6.0, 0.0], [0.0, 0.0, 0.0]]))
    assert found["confusion"] == [[3, 0.5, 0], [2, 6, 0], [0, 0, 0]]
    assert found["recall"] == [pytest.approx(3 / 3.5), 0.75, None]
    assert found["precision"] == [0.6, pytest.approx(6 / 6.5), None]
    assert found["most_confused"] == [
        {"class": 1, "taken_for": 0, "examples": 2},
        {"class": 0, "taken_for": 1, "examples": 0.5},
    ]
    assert "confusion" not in classes(np.eye(201))


def test_calibration_of_nothing():
    assert calibration(np.zeros((2, 3)))["expected_calibration_error"] is None


def test_a_single_logit_is_that_of_class_1():
    predicted, confidence = predictions(
        jnp.asarray([[2.0], [0.5], [-1.0]]), LossConfig("binary_cross_entropy", 0.0, 1.0)
    )
    np.testing.assert_array_equal(predicted, [1, 0, 0])
    np.testing.assert_allclose(confidence, jax.nn.sigmoid(jnp.asarray([2.0, -0.5, 1.0])), rtol=1e-6)


def test_language_has_no_confusion_and_squares_no_confidence():
    task = Task("language", vocab_size=3, length=2)
    found = sums([[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]], [[0, 0]], [[1, 1]], task=task)
    assert found.keys() == {"means", "reliability"}
    np.testing.assert_allclose(found["reliability"].sum(axis=0), [2, 1.5, 1], rtol=1e-6)
    measure = detailed(LossConfig("mean_squared_error"), THREE, 5)
    assert measure(jnp.zeros((1, 3)), jnp.zeros(1, int), jnp.ones(1)).keys() == {"means", "confusion"}


def test_spans_of_adaptive_layers():
    layers = (mechanism("softmax", {}), mechanism("adaptive_span", {"max_span": 8, "softness": 2}))
    model = LanguageModel(vocab_size=5, width=4, depth=2, num_heads=2, attention=layers)
    # z = 8 sigmoid(0) = 4 and 8 * 1/4 = 2: keys at distances 0 .. 5 and 0 .. 3 are not masked.
    params = {"block_1": {"attention": {"span_logit": jnp.asarray([0.0, np.log(1 / 3)])}}}
    found = spans(model, params, 10)
    assert found.keys() == {"block_1"}
    assert found["block_1"]["period"] == [None, None]
    np.testing.assert_allclose(found["block_1"]["reach"], [6, 4], rtol=1e-6)
    np.testing.assert_allclose(found["block_1"]["keys"], [4.5, 3.4], rtol=1e-6)
