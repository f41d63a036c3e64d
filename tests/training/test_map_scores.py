"""Scores near borders, away from them and of the borders: a slow oracle, then laws, then what is warned of."""

import numpy as np
import pytest

from cluemap.training.map_scores import (
    BAND,
    BORDER,
    FARTHEST,
    MapCounts,
    border,
    border_distance,
    map_counts,
    named_edge_scores,
    named_map_scores,
    warnings_of,
)
from cluemap.training.metrics import Ids

N, H, W, K = 2, 13, 11, 3
NAMES = ["background", "wheat", "rape", "maize"]


def blocks(seed: int) -> np.ndarray:
    """uint8 n h w: fields of some pixels a side, some void."""
    draw = np.random.default_rng(seed)
    fields = draw.integers(0, K + 1, (N, 3, 3)).repeat(5, axis=1).repeat(4, axis=2)[:, :H, :W]
    fields[draw.uniform(size=fields.shape) < 0.08] = 255
    return fields.astype(np.uint8)


def slow_border(labels: np.ndarray, distance: int) -> np.ndarray:
    out = np.zeros(labels.shape, bool)
    for n, y, x in np.ndindex(labels.shape):
        if labels[n, y, x] == 255:
            continue
        near = labels[n, max(0, y - distance) : y + distance + 1, max(0, x - distance) : x + distance + 1]
        out[n, y, x] = any(other not in (255, labels[n, y, x]) for other in near.ravel())
    return out


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_border(distance):
    np.testing.assert_array_equal(border(blocks(1), distance), slow_border(blocks(1), distance))


def test_distance_is_that_of_the_nearest_border():
    labels = np.zeros((1, 31, 23), np.uint8)
    labels[0, :, 11:] = 2
    labels[0, 29:, 21:] = 3
    labels[0, 5, 5] = 255
    distance = border_distance(labels)
    for place in np.argwhere(labels != 255):
        here = tuple(place)
        reached = [d for d in range(1, FARTHEST + 1) if slow_border(labels, d)[here]] if place[1] == 3 else []
        by_column = 11 - place[2] if place[2] < 11 else place[2] - 10
        corner = max(29 - place[1], 21 - place[2]) if place[1] < 29 or place[2] < 21 else 99
        expected = min(by_column, corner if place[2] >= 11 else 99, FARTHEST + 1)
        if labels[here] == 3:
            expected = min(place[1] - 28, place[2] - 20)
        assert distance[here] == expected
        assert not reached or distance[here] == reached[0]


def test_a_constant_map_has_no_border_not_even_at_void_or_at_the_edge():
    labels = np.full((1, 7, 7), 2, np.uint8)
    labels[0, 3, 3] = 255
    assert not border(labels, 2).any()


@pytest.mark.parametrize("background", [True, False])
def test_counts(background):
    truth, found, ids = blocks(1), blocks(2), Ids(K, background)
    if not background:
        truth, found = (np.where(x == 0, 1, x).astype(np.uint8) for x in (truth, found))
    counts = map_counts(truth, found, ids)
    seen = np.where(truth == 255, 255, found)  # what a map says about void makes no border
    near, mine, true = slow_border(truth, BORDER), slow_border(seen, BAND), slow_border(truth, BAND)
    for row, label in enumerate(range(ids.first, K + 1)):
        here = truth == label
        assert counts.confusion[row].sum() == here.sum()
        assert counts.within(BORDER)[row].sum() == (here & near).sum()
        assert counts.within(1)[row].sum() == (here & slow_border(truth, 1)).sum()
        assert counts.interior[row].sum() == (here & ~near).sum()
        hit = here & near & (found == label)
        assert counts.within(BORDER)[row, row] == hit.sum()
        in_truth = here & true
        in_map = (seen == label) & mine
        assert counts.boundary[0, row] == (in_truth & in_map).sum()
        assert counts.boundary[1, row] == (in_truth | in_map).sum()


def test_counts_add_up_and_a_perfect_map_has_perfect_borders():
    truth, ids = blocks(1), Ids(K, True)
    parts = [map_counts(truth[n : n + 1], truth[n : n + 1], ids) for n in range(N)]
    together = MapCounts.none(ids) + parts[0] + parts[1]
    assert all(np.array_equal(a, b) for a, b in zip(together, map_counts(truth, truth, ids), strict=True))
    found = named_map_scores(together, NAMES)
    assert found["boundary_iou"] == found["border_miou"] == found["interior_miou"] == found["miou"] == 1.0


def test_a_wrong_pixel_at_a_border_costs_the_border_alone():
    truth = np.zeros((1, 12, 12), np.uint8)
    truth[:, :, 6:] = 1
    found = truth.copy()
    found[:, :, 6] = 0  # the border is one pixel off
    scores = named_map_scores(map_counts(truth, found, Ids(1, True)), NAMES[:2])
    assert scores["interior_miou"] == 1.0
    assert scores["border_miou"] < 0.8
    assert scores["border_1px_miou"] < scores["border_miou"]
    assert scores["boundary_iou"] == pytest.approx(1 / 3)  # bands of two columns that share one


def test_edges_class_by_class_and_errors_by_distance():
    truth = np.zeros((1, 12, 24), np.uint8)
    truth[:, :, 12:] = 1
    truth[:, :, :2] = 255
    found = truth.copy()
    found[:, :, 12] = 0
    found[:, :6, 14] = 3
    edges = named_edge_scores(map_counts(truth, found, Ids(K, True)), NAMES)
    assert edges["error"] == {"1": 0.5, "2": 0.0, "3": 0.25, **dict.fromkeys("45678", 0.0), "farther": 0.0}
    assert edges["pixels"] == {**dict.fromkeys("12345678", 24), "farther": 12 * 22 - 8 * 24}
    assert edges["border_1px_iou"]["wheat"] == 0.0
    assert edges["border_iou"]["wheat"] == 0.5
    assert edges["interior_iou"]["wheat"] == pytest.approx(1 - 6 / (12 * 10))
    assert np.isnan(edges["boundary_iou"]["maize"])
    means = named_map_scores(map_counts(truth, found, Ids(K, True)), NAMES)
    for name in ("boundary", "border_1px", "border", "interior"):
        assert means[f"{name}_" + ("iou" if name == "boundary" else "miou")] == pytest.approx(
            np.nanmean(list(edges[f"{name}_iou"].values()))
        )


def scored(truth: np.ndarray, found: np.ndarray) -> dict:
    return named_map_scores(map_counts(truth, found, Ids(K, True)), NAMES)


def test_a_class_that_is_not_there_is_listed_and_not_counted_as_zero():
    truth, found = np.ones((1, 6, 6), np.uint8), np.ones((1, 6, 6), np.uint8)
    found[0, 0] = 3
    scores = scored(truth, found)
    assert scores["absent_but_predicted"] == {"maize": 6}
    assert scores["miou"] == pytest.approx(5 / 6)  # wheat alone: it lost the six pixels
    assert scores["support"] == {"background": 0, "wheat": 36, "rape": 0, "maize": 0}
    assert scores["balanced_accuracy"] == pytest.approx(5 / 6)


def test_warnings_name_what_is_wrong():
    truth = np.ones((1, 6, 6), np.uint8)
    found = truth.copy()
    found[0, 0] = 3
    test = {"weak": scored(truth, truth), "full": scored(truth, found)}
    texts = warnings_of(test, 1.2, windows=3)
    assert any("120.0%" in text and "reference" in text for text in texts)
    assert any("no pixel of background, rape, maize" in text for text in texts)
    assert any("maize" in text and "not there" in text for text in texts)
    assert any("3 windows" in text for text in texts)
    good = {"weak": scored(blocks(1), blocks(1)), "full": scored(blocks(1), blocks(1))}
    assert warnings_of(good, 0.97, windows=100) == []
