"""Upsampling, best classes and pseudo masks against slow oracles, then their laws (METHOD section 7)."""

from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch

from cluemap.model.method import pseudo_masks as fast

B, K, H, W = 3, 5, 7, 11
LABELS = np.array([[True, False, True, True, False], [False, True, True, False, True], [False] * 4 + [True]])


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def cams(seed: int = 0) -> np.ndarray:
    return draw(seed).uniform(0, 1, (B, K, H, W))


# --------------------------------------------------------------------------------------------------------- upsampling
@pytest.mark.parametrize(("grid", "size"), [((7, 7), 14), ((5, 5), 13), ((7, 11), 23), ((3, 3), 3)])
def test_upsample(grid, size):
    cam = draw().normal(size=(B, K, *grid))
    np.testing.assert_allclose(fast.upsample(tensor(cam), size), oracles.upsample(cam, (size, size)), atol=1e-12)


def test_upsample_by_hand():
    ours = fast.upsample(torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]]), 4)[0, 0]
    assert ours[0].tolist() == [0, 1, 3, 4]  # pixel centres lie a quarter of a step off the grid's
    assert ours[:, 0].tolist() == [0, 2, 6, 8]


# ------------------------------------------------------------------------------------------------------- best classes
def test_best_class():
    score, winner = fast.best_class(tensor(cams()), tensor(LABELS))
    slow_score, slow_winner = oracles.best_class(cams(), LABELS)
    np.testing.assert_array_equal(score.numpy(), slow_score)
    np.testing.assert_array_equal(winner.numpy(), slow_winner)


@pytest.mark.parametrize("present_score", [0.0, 1e-3, -2.0])
def test_an_absent_class_never_wins(present_score):
    cam = np.where(LABELS[:, :, None, None], present_score, 9.0) * np.ones((B, K, H, W))
    score, winner = fast.best_class(tensor(cam), tensor(LABELS))
    for b in range(B):
        assert {int(k) - 1 for k in winner[b].unique()} <= set(np.flatnonzero(LABELS[b]))
    assert (score == present_score).all()


def test_order_of_classes_only_renames_the_winners():
    k = draw().permutation(K)
    score, winner = fast.best_class(tensor(cams()), tensor(LABELS))
    other_score, other_winner = fast.best_class(tensor(cams()[:, k]), tensor(LABELS[:, k]))
    assert torch.equal(score, other_score)
    np.testing.assert_array_equal(winner.numpy(), k[other_winner.numpy() - 1] + 1)


@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("background", [True, False])
def test_a_window_without_any_class_gets_no_crop(background, threshold):
    score, winner = fast.best_class(tensor(cams()), torch.zeros(B, K).bool())
    mask = fast.pseudo_mask(score, winner, threshold, background)
    assert mask.unique().tolist() == [0 if background else 255]


# -------------------------------------------------------------------------------------------------------------- masks
@pytest.mark.parametrize("ignore_band", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [0.3, 0.83])
@pytest.mark.parametrize("background", [True, False])
def test_pseudo_mask(background, threshold, ignore_band):
    score, winner = oracles.best_class(cams() ** 2, LABELS)
    ours = fast.pseudo_mask(tensor(score), tensor(winner), threshold, background, ignore_band)
    assert ours.dtype == torch.uint8
    np.testing.assert_array_equal(ours, oracles.pseudo_mask(score, winner, threshold, background, ignore_band))
    assert len(ours.unique()) > 3


def test_background_keeps_what_no_class_beats():
    """The largest of {beta, Y_1..Y_K}: a class that only equals beta has not beaten it."""
    score, winner = torch.tensor([[[0.25, 0.5, 0.75]]]), torch.tensor([[[4, 3, 2]]])
    assert fast.pseudo_mask(score, winner, 0.5, background=True).tolist() == [[[0, 0, 2]]]


def test_without_background_only_what_is_under_the_threshold_is_void():
    score, winner = torch.tensor([[[0.25, 0.5, 0.75]]]), torch.tensor([[[4, 3, 2]]])
    assert fast.pseudo_mask(score, winner, 0.5, background=False).tolist() == [[[255, 3, 2]]]


def test_without_background_threshold_zero_voids_nothing():
    score, winner = torch.zeros(1, 1, 3), torch.tensor([[[4, 3, 2]]])
    assert fast.pseudo_mask(score, winner, 0.0, background=False).tolist() == [[[4, 3, 2]]]


@pytest.mark.parametrize("background", [True, False])
def test_ignore_band_reaches_both_sides_and_nothing_farther(background):
    score, winner = torch.tensor([[[0.1, 0.35, 0.6, 0.9]]]), torch.tensor([[[1, 2, 3, 4]]])
    ours = fast.pseudo_mask(score, winner, 0.5, background, ignore_band=0.2)
    assert ours.tolist() == [[[0 if background else 255, 255, 255, 4]]]


def test_ignore_band_of_nothing_voids_nothing():
    score, winner = torch.full((1, 1, 1), 0.5), torch.ones(1, 1, 1).long()
    assert fast.pseudo_mask(score, winner, 0.5, True, 0.0).item() == 0


@pytest.mark.parametrize("background", [True, False])
def test_a_higher_threshold_never_adds_crop(background):
    score, winner = map(tensor, oracles.best_class(cams(), LABELS))
    empty = 0 if background else 255
    crops = [(fast.pseudo_mask(score, winner, beta, background) != empty) for beta in np.linspace(0, 1, 13)]
    assert all((after <= before).all() for before, after in pairwise(crops))
    assert crops[0].any()
    assert not crops[-1].any()


def test_the_highest_class_id_fits_and_is_not_void():
    mask = fast.pseudo_mask(torch.ones(1, 1, 1), torch.tensor([[[254]]]), 0.5, True)
    assert mask.item() == 254
