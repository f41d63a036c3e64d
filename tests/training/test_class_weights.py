"""Weights of rare classes: by hand, and their laws."""

import numpy as np
import pytest

from cluemap.training.segmenter_task import class_weights

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


def test_no_label_at_all():
    assert (class_weights(np.full((1, 2, 2), 255, np.uint8), 3, 0, 0.5) == 0).all()
