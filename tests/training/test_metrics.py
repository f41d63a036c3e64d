"""Scores against slow oracles, then their laws (METHOD sections 7 and 9)."""

import math

import numpy as np
import oracles
import pytest
import torch

from cluemap.data.patches import CropClass, Legend
from cluemap.model.method.pseudo_masks import pseudo_mask
from cluemap.training import metrics as fast
from cluemap.training.metrics import Ids

K, H, W, B = 5, 7, 11, 3
BOTH = pytest.mark.parametrize("background", [True, False])


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def labels(background: bool, seed: int = 0, missing: int = 4) -> np.ndarray:
    """uint8 b h w with void pixels; class `missing` does not occur."""
    random = draw(seed)
    out = random.integers(0 if background else 1, K + 1, (B, H, W))
    out[out == missing] = 2
    out[random.uniform(size=out.shape) < 0.2] = 255
    return out.astype(np.uint8)


def slow_table(truth: np.ndarray, prediction: np.ndarray, background: bool) -> np.ndarray:
    return oracles.confusion(truth, prediction, K + background, 0 if background else 1)


def same(ours, oracle) -> None:
    np.testing.assert_allclose(np.asarray(ours, float), np.asarray(oracle, float), rtol=1e-12, atol=0)


# ---------------------------------------------------------------------------------------------------------- confusion
@BOTH
def test_confusion(background):
    truth, prediction = labels(background), labels(background, 1, missing=3)
    ours = fast.confusion(truth, prediction, Ids(K, background))
    np.testing.assert_array_equal(ours, slow_table(truth, prediction, background))
    assert ours.sum() == (truth != 255).sum()


@BOTH
def test_confusions_add_up(background):
    truth, prediction, ids = labels(background), labels(background, 1), Ids(K, background)
    parts = sum(fast.confusion(t, p, ids) for t, p in zip(truth, prediction, strict=True))
    np.testing.assert_array_equal(parts, fast.confusion(truth, prediction, ids))


@BOTH
def test_void_truth_counts_nowhere(background):
    prediction, ids = labels(background, 1), Ids(K, background)
    assert fast.confusion(np.full_like(prediction, 255), prediction, ids).sum() == 0


# ------------------------------------------------------------------------------------------------------------- scores
@BOTH
def test_scores(background):
    truth, prediction = labels(background), labels(background, 1, missing=4)
    table = slow_table(truth, prediction, background)
    ours, slow = fast.scores(table), oracles.scores(table)
    same(ours.overall_accuracy, slow["oa"])
    same(ours.miou, slow["miou"])
    same(ours.balanced_accuracy, slow["balanced"])
    for name in ("iou", "precision", "recall", "f1"):
        same(getattr(ours, name), slow[name])
    assert math.isnan(ours.iou[4 if background else 3])


def test_scores_by_hand():
    """Class 0: 3 right, 1 taken for class 1. Class 1: 2 right, 1 without a prediction. Class 2 does not occur."""
    ours = fast.scores(np.array([[3, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]]))
    same(ours.overall_accuracy, 5 / 7)
    same(ours.iou, [3 / 4, 2 / 4, math.nan])
    same(ours.miou, 5 / 8)
    same(ours.precision, [1, 2 / 3, math.nan])
    same(ours.recall, [3 / 4, 2 / 3, math.nan])
    same(ours.f1, [6 / 7, 4 / 6, math.nan])


def test_a_class_that_is_only_predicted_is_not_counted_but_costs_the_others():
    ours = fast.scores(np.array([[3, 1, 0], [0, 0, 0]]))
    same(ours.miou, 3 / 4)
    same(ours.balanced_accuracy, 3 / 4)
    assert math.isnan(ours.iou[1])
    assert (ours.support.tolist(), ours.predicted.tolist()) == ([4, 0], [3, 1])


def test_scores_of_nothing_are_unknown():
    ours = fast.scores(np.zeros((3, 4), int))
    assert math.isnan(ours.overall_accuracy)
    assert math.isnan(ours.miou)


def test_scores_of_many_confusions_at_once():
    tables = draw().integers(0, 9, (13, 5, 6))
    tables[3, 2], tables[3, :, 2] = 0, 0
    ours = fast.scores(tables)
    same(ours.miou, [oracles.scores(table)["miou"] for table in tables])
    same(ours.f1, [oracles.scores(table)["f1"] for table in tables])


@BOTH
def test_perfect_and_opposite(background):
    truth, ids = labels(background), Ids(K, background)
    best = fast.scores(fast.confusion(truth, truth, ids))
    assert (best.overall_accuracy, best.miou) == (1, 1)
    wrong = np.where(truth == 2, 1, 2).astype(np.uint8)
    assert fast.scores(fast.confusion(truth, wrong, ids)).miou == 0


def test_order_of_classes_does_not_matter():
    table = draw().integers(0, 9, (K, K + 1))
    k = draw(1).permutation(K)
    ours, shuffled = fast.scores(table), fast.scores(table[k][:, [*k, K]])
    same(shuffled.miou, ours.miou)
    same(shuffled.iou, ours.iou[k])


@BOTH
def test_names_stand_in_the_order_of_the_rows(background):
    crops = tuple(CropClass(name, "#000000") for name in ("wheat", "maize"))
    names = fast.class_names(Legend(("B02",), (0, 0, 0), crops, background))
    assert names == ["background"] * background + ["wheat", "maize"]
    truth = np.array([1, 1, 2, 2], np.uint8)
    table = fast.confusion(truth, np.array([1, 2, 2, 2], np.uint8), Ids(2, background))
    result = fast.named(fast.scores(table), names)
    same(result["overall_accuracy"], 3 / 4)
    same(result["iou"]["wheat"], 1 / 2)
    same(result["iou"]["maize"], 2 / 3)
    same(result["f1"]["maize"], 4 / 5)


# ------------------------------------------------------------------------------------------------- the threshold curve
def curve_inputs(background: bool, seed: int = 0):
    random = draw(seed)
    score, winner = random.uniform(0, 1, (B, H, W)), random.integers(1, K + 1, (B, H, W))
    score.flat[:8] = [0.0, 1.0, 1e-9, 0.5, 0.25, 1 - 1e-12, 1.0, -np.inf]  # also some thresholds themselves
    return score, winner, labels(background, seed + 1)


@BOTH
@pytest.mark.parametrize("points", [2, 12, 60])
def test_curve_is_that_of_one_pass_per_threshold(background, points):
    score, winner, truth = curve_inputs(background)
    ids = Ids(K, background)
    ours = fast.curve(fast.curve_counts(score, winner, truth, points, ids), ids)
    slow = oracles.threshold_curve(score, winner, truth, ours.thresholds.tolist(), background, K)
    assert len(ours.thresholds) == points
    same(np.stack([ours.overall_accuracy, ours.miou], axis=1), slow)


@BOTH
def test_curve_gives_the_scores_of_the_very_masks(background):
    score, winner, truth = curve_inputs(background, 4)
    ids = Ids(K, background)
    ours = fast.curve(fast.curve_counts(score, winner, truth, 20, ids), ids)
    for i, threshold in enumerate(ours.thresholds.tolist()):
        masks = pseudo_mask(torch.from_numpy(score), torch.from_numpy(winner), threshold, background).numpy()
        same(ours.miou[i], fast.scores(fast.confusion(truth, masks, ids)).miou)


@BOTH
def test_curve_counts_add_up(background):
    score, winner, truth = curve_inputs(background)
    ids = Ids(K, background)
    parts = sum(fast.curve_counts(*one, 13, ids) for one in zip(score, winner, truth, strict=True))
    np.testing.assert_array_equal(parts, fast.curve_counts(score, winner, truth, 13, ids))


def test_thresholds_are_even_and_leave_room_for_crops():
    ours = fast.curve_thresholds(60)
    assert ours[0] == 0
    assert ours[-1] < 1
    np.testing.assert_allclose(np.diff(ours), ours[1])


# -------------------------------------------------------------------------------------------------- average precision
def classified(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = draw(seed)
    score, truth = random.normal(size=(31, K)).round(1), random.uniform(size=(31, K)) < 0.4  # rounded: there are ties
    truth[:, 3] = False
    return score, truth


def test_average_precision():
    ours, slow = fast.average_precision(*classified()), oracles.mean_average_precision(*classified())
    same([ours["macro"], ours["micro"]], slow)


def test_average_precision_of_perfect_order_is_one():
    _, truth = classified()
    found = fast.average_precision(truth * 2.0 - 7, truth)
    assert (found["macro"], found["micro"]) == (1.0, 1.0)
    known = truth.any(axis=0)
    assert [value for value, there in zip(found["classes"], known, strict=True) if there] == [1.0] * known.sum()
    assert all(math.isnan(value) for value, there in zip(found["classes"], known, strict=True) if not there)


def test_average_precision_without_any_positive_is_unknown():
    score, truth = classified()
    found = fast.average_precision(score, np.zeros_like(truth))
    assert all(math.isnan(value) for value in (found["macro"], found["micro"], *found["classes"]))


def test_average_precision_of_what_is_known():
    """As if the unknown ones had been taken out, class by class."""
    score, truth = classified(4)
    known = truth | (draw(9).uniform(size=truth.shape) < 0.5)
    found = fast.average_precision(score, truth, known)
    for k in range(K):
        alone = fast.average_precision(score[known[:, k]][:, [k]], truth[known[:, k]][:, [k]])
        assert math.isnan(found["classes"][k]) if k == 3 else found["classes"][k] == pytest.approx(alone["macro"])
    assert found["macro"] != pytest.approx(fast.average_precision(score, truth)["macro"])
