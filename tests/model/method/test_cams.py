"""Raw and clue-based CAMs against slow oracles, then their laws (METHOD sections 2.5 and 6)."""

import numpy as np
import oracles
import pytest
import torch

from cluemap.model.method import cams as fast
from cluemap.model.method.clues import Clues

B, M, K, H, W, D = 2, 3, 5, 7, 11, 13
LABELS = np.array([[True, False, True, True, False], [False, True, True, False, True]])


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def agree(ours: torch.Tensor, oracle: np.ndarray) -> None:
    np.testing.assert_allclose(ours.numpy(), oracle, rtol=1e-9, atol=1e-12)


def clue_inputs(seed: int = 0):
    """Dense features and clues of any length: only directions count."""
    random = draw(seed)
    clues = random.normal(size=(2, K, M, D)) * random.uniform(0.5, 4, (2, K, M, 1))
    return random.normal(size=(B, H * W, K, D)) * random.uniform(0.1, 9, (B, H * W, K, 1)), *clues


def clue_cam(dense, positives, negatives, labels=LABELS, height=H) -> torch.Tensor:
    return fast.clue_cam(tensor(dense), Clues(tensor(positives), tensor(negatives)), tensor(labels), height)


def test_raw_cam():
    temporal, spatial = draw().normal(size=(2, B, K, H, W))
    agree(fast.raw_cam(tensor(temporal), tensor(spatial)), oracles.raw_cam(temporal, spatial))


@pytest.mark.parametrize("source", ["temporal", "spatial"])
def test_raw_cam_of_one_part(source):
    parts = dict(zip(("temporal", "spatial"), draw().normal(size=(2, B, K, H, W)), strict=True))
    ours = fast.raw_cam(tensor(parts["temporal"]), tensor(parts["spatial"]), source)
    agree(ours, np.maximum(parts[source], 0))


def test_clue_cam():
    ours = clue_cam(*clue_inputs())
    agree(ours, oracles.clue_cam(*clue_inputs(), LABELS, H))
    assert 0.2 < (ours.numpy()[LABELS] > 0).mean() < 0.8


def test_clue_cam_by_hand():
    """One class, two clues a sign: cosines 0.6 and 0.8 towards, 0 and -1 against."""
    dense = np.array([5.0, 0.0]).reshape(1, 1, 1, 2)
    positives = np.array([[0.6, 0.8], [8.0, 6.0]]).reshape(1, 2, 2)
    negatives = np.array([[0.0, 3.0], [-2.0, 0.0]]).reshape(1, 2, 2)
    agree(clue_cam(dense, positives, negatives, np.array([[True]]), 1), np.array([[[[0.8]]]]))
    agree(clue_cam(dense, negatives, positives, np.array([[True]]), 1), np.array([[[[0.0]]]]))


def test_clue_cam_of_absent_classes_is_zero():
    ours = clue_cam(*clue_inputs()).numpy()
    assert not ours[~LABELS].any()
    assert ours[LABELS].any(axis=(1, 2)).all()


def test_clue_cam_does_not_depend_on_the_order_of_classes_and_clues():
    dense, positives, negatives = clue_inputs()
    k, m = draw().permutation(K), draw().permutation(M)
    shuffled = clue_cam(dense[:, :, k], positives[k][:, m], negatives[k][:, m[::-1]], LABELS[:, k])
    agree(shuffled, clue_cam(*clue_inputs()).numpy()[:, k])


def test_a_clue_of_another_class_changes_nothing():
    dense, positives, negatives = clue_inputs()
    before = clue_cam(dense, positives, negatives).numpy()
    positives, negatives = positives.copy(), negatives.copy()
    positives[2], negatives[2] = -positives[2], 3 - negatives[2]
    after = clue_cam(dense, positives, negatives).numpy()
    kept = np.arange(K) != 2
    np.testing.assert_array_equal(after[:, kept], before[:, kept])
    assert (after[:, 2] != before[:, 2]).any()


def test_min_max():
    cam = draw().normal(size=(B, K, H, W)) * 3 + 1
    cam[0, 1] = 4.0  # an even map has no best place
    cam[0, 2] *= 1e-8  # the small number in the divisor counts here
    ours = fast.min_max(tensor(cam))
    agree(ours, oracles.min_max(cam))
    assert not ours[0, 1].any()
    agree(ours[1].amin(dim=(1, 2)), np.zeros(K))
    np.testing.assert_allclose(ours[1].amax(dim=(1, 2)), 1, atol=1e-8)


def test_min_max_of_single_precision_zeros_is_zero():
    assert not fast.min_max(torch.zeros(B, K, H, W)).any()
