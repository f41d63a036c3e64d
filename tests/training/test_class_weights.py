"""Weights of rare classes: by hand, and their laws."""

import numpy as np
import pytest

from cluemap.training.segmenter_task import class_weights, weights_of

MASKS = np.array([[[1, 1, 1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2, 4, 4], [255] * 8]], np.uint8)  # of 16: 8, 6, 0, 2


def test_by_hand():
    raw = np.array([0.5**-0.5, 0.375**-0.5, 0, 0.125**-0.5])
    expected = raw / (0.5 * raw[0] + 0.375 * raw[1] + 0.125 * raw[3])
    np.testing.assert_allclose(class_weights(MASKS, 4, 1, 0.5), expected, rtol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_laws(power):
    weights, counts = class_weights(MASKS, 4, 1, power), np.array([8, 6, 0, 2])
    assert (weights * counts).sum() / 16 == pytest.approx(1)
    assert weights[2] == 0
    if power == 1.0:
        assert np.ptp((weights * counts)[[0, 1, 3]]) < 1e-5  # every class has the same mass
    if power == 0.0:
        np.testing.assert_allclose(weights[[0, 1, 3]], 1)


def test_of_probabilities_the_mass_of_each_class_counts():
    """As many 255ths as there are, whatever the masks say; sure ones are the masks."""
    shares = np.round(255 * np.random.default_rng(0).dirichlet([1, 2, 3, 4], (2, 3, 5))).astype(np.uint8)
    mass = np.array([shares[..., k].astype(float).sum() for k in range(4)])
    raw = (mass / mass.sum()) ** -0.5
    np.testing.assert_allclose(weights_of(mass, 0.5), raw / (raw * mass).sum() * mass.sum(), rtol=1e-6)
    sure = 255 * (MASKS[..., None] == np.arange(1, 5))
    np.testing.assert_allclose(weights_of(sure.sum(axis=(0, 1, 2)), 0.5), class_weights(MASKS, 4, 1, 0.5), rtol=1e-6)


def test_no_label_at_all():
    assert (class_weights(np.full((1, 2, 2), 255, np.uint8), 3, 0, 0.5) == 0).all()
