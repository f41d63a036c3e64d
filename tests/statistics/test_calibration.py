"""Calibration against slow sums, a temperature that is known, and laws."""

import numpy as np
import pytest
import torch

from cluemap.errors import DataError
from cluemap.statistics.calibration import (
    calibrated,
    entropy,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)


def drawn(temperature, n=20_000, classes=4, seed=0):
    """Logits of a model, and labels as frequent as softmax(logits / temperature) says."""
    generator = np.random.default_rng(seed)
    logits = 3 * generator.standard_normal((n, classes))
    return logits, torch.multinomial(
        torch.softmax(torch.from_numpy(logits) / temperature, 1), 1, generator=torch.Generator().manual_seed(seed)
    )[:, 0].numpy()  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_the_labels_were_drawn_with_is_found(true):
    logits, labels = drawn(true)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.05)
    loss = torch.nn.functional.cross_entropy
    grid = np.exp(np.linspace(-2, 2, 401))
    slow = min(grid, key=lambda t: loss(torch.from_numpy(logits / t), torch.from_numpy(labels)).item())
    assert found == pytest.approx(slow, rel=0.011)


def test_an_overconfident_model_becomes_reliable_and_keeps_its_classes():
    logits, labels = drawn(2.5)
    fitted = calibrated(logits, fit_temperature(*drawn(2.5, seed=1)))
    before, after = reliability(calibrated(logits, 1.0), labels), reliability(fitted, labels)
    assert before.expected_error > 0.15
    assert after.expected_error < 0.02
    assert negative_log_likelihood(logits, labels, 2.5) < negative_log_likelihood(logits, labels)
    np.testing.assert_array_equal(fitted.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_allclose(fitted.sum(axis=1), 1)


def test_reliability_against_slow_sums():
    logits, labels = drawn(1.7, n=300, classes=3)
    probabilities = calibrated(logits, 1.0)
    found = reliability(probabilities, labels, bins=7)
    error = 0.0
    for number in range(7):
        inside = [
            (max(row), row.tolist().index(max(row)) == label)
            for row, label in zip(probabilities, labels, strict=True)
            if number / 7 < max(row) <= (number + 1) / 7
        ]
        assert found.count[number] == len(inside)
        if inside:
            confidence, accuracy = np.mean([one[0] for one in inside]), np.mean([one[1] for one in inside])
            assert found.mean_confidence[number] == pytest.approx(confidence)
            assert found.accuracy[number] == pytest.approx(accuracy)
            error += len(inside) / 300 * abs(confidence - accuracy)
        else:
            assert np.isnan(found.accuracy[number])
    assert found.expected_error == pytest.approx(error)


def test_batches_add_up():
    logits, labels = drawn(1.0, n=500)
    probabilities = calibrated(logits, 1.0)
    both = reliability(probabilities[:200], labels[:200]) + reliability(probabilities[200:], labels[200:])
    whole = reliability(probabilities, labels)
    np.testing.assert_array_equal(both.right, whole.right)
    assert both.expected_error == pytest.approx(whole.expected_error)


def test_certainty_and_its_edges():
    np.testing.assert_allclose(entropy(np.array([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3]])), [0, 1], atol=1e-12)
    sure = reliability(np.eye(3), np.array([0, 1, 1]))
    assert sure.count[-1] == 3
    assert sure.expected_error == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="wants labelled pixels"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
