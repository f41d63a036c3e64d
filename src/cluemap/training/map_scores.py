"""Scores of whole maps: overall, near the borders of classes, away from them, and of the borders themselves."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from cluemap.training.metrics import VOID, Ids, confusion, named, scores

BORDER = 2  # pixels on either side of a true class border that count as near it
FEW_WINDOWS = 20  # test windows under which one split is a matter of luck
BAND = 2  # pixels inside a class border that make up the border in the boundary IoU
FARTHEST = 8  # pixels from a border up to which errors are told apart


class MapCounts(NamedTuple):
    """Counts of maps against their truth, which add up over windows and ranks."""

    by_distance: NDArray[np.int64]  # FARTHEST + 1, size, size + 1: the pixels 1, 2, .. from a true border; farther ones
    boundary: NDArray[np.int64]  # 2, size: intersection and union of true and predicted border bands

    def __add__(self, other: "MapCounts") -> "MapCounts":  # type: ignore[override]  # sums, not a longer tuple
        return MapCounts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @classmethod
    def none(cls, ids: Ids) -> "MapCounts":
        """Counts of no pixel."""
        return cls(np.zeros((FARTHEST + 1, ids.size, ids.size + 1), np.int64), np.zeros((2, ids.size), np.int64))

    @property
    def confusion(self) -> NDArray[np.int64]:
        """size, size + 1: all pixels."""
        return self.by_distance.sum(axis=0)

    def within(self, distance: int) -> NDArray[np.int64]:
        """size, size + 1: the pixels within `distance` (up to FARTHEST) of a true border."""
        return self.by_distance[:distance].sum(axis=0)

    @property
    def interior(self) -> NDArray[np.int64]:
        """size, size + 1: the pixels that are not near a true border."""
        return self.by_distance[BORDER:].sum(axis=0)


def map_counts(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], ids: Ids) -> MapCounts:
    """truth n h w (255 = void), prediction n h w -> counts of these windows. Void is no class: it makes no border."""
    distance = border_distance(truth)
    parts = [np.where(distance == here, truth, VOID) for here in range(1, FARTHEST + 2)]
    return MapCounts(
        by_distance=np.stack([confusion(part, prediction, ids) for part in parts]),
        boundary=_boundary(truth, prediction, ids),
    )


def border_distance(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """n h w -> n h w: pixels to the nearest one of another class, rows or columns, whichever are more: 1 = it touches
    one, even at a corner; FARTHEST + 1 = farther away, or there is none in the window. 255 and the window's edge do not
    count as another class.
    """
    signed = labels.astype(np.int16)
    highest, lowest = np.where(labels == VOID, -1, signed), signed
    distance = np.full(labels.shape, FARTHEST + 1, np.uint8)
    for step in range(1, FARTHEST + 1):
        highest = maximum_filter(highest, (1, 3, 3), mode="nearest")
        lowest = minimum_filter(lowest, (1, 3, 3), mode="nearest")
        distance[(highest > lowest) & (distance > step)] = step
    return distance


def border(labels: NDArray[np.uint8], distance: int) -> NDArray[np.bool_]:
    """n h w -> n h w: whether another class lies within `distance` pixels (a square, up to FARTHEST)."""
    return (border_distance(labels) <= distance) & (labels != VOID)


def _boundary(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], ids: Ids) -> NDArray[np.int64]:
    """2 size: per class, pixels in both border bands and in either (boundary IoU, Cheng et al. 2021).

    Where the truth is void the map is taken as void too: what it says there makes no border, as in the truth.
    """
    seen = np.where(truth != VOID, prediction, VOID)
    mine = np.where(border(seen, BAND), seen, VOID)
    true = np.where(border(truth, BAND), truth, VOID)
    classes = np.arange(ids.first, ids.first + ids.size)
    both = np.array([np.count_nonzero((true == k) & (mine == k)) for k in classes])
    either = np.array([np.count_nonzero((true == k) | (mine == k)) for k in classes])
    return np.stack([both, either]).astype(np.int64)


def named_map_scores(counts: MapCounts, names: list[str]) -> dict[str, Any]:
    """What `metrics.named` gives of the whole map, and "boundary_iou" (mean over the classes that have a true pixel),
    "border_1px_miou" and "border_miou" (within 1 and BORDER pixels of a true border), "interior_miou" (all but these).
    """
    whole = scores(counts.confusion)
    iou = _boundary_iou(counts)
    return {
        **named(whole, names),
        "boundary_iou": float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan"),
        "border_1px_miou": float(scores(counts.within(1)).miou),
        "border_miou": float(scores(counts.within(BORDER)).miou),
        "interior_miou": float(scores(counts.interior).miou),
    }


def named_edge_scores(counts: MapCounts, names: list[str]) -> dict[str, dict[str, float]]:
    """Class by class what `named_map_scores` gives the mean of; "error" and "pixels" at 1, 2, .. pixels from a true
    border and farther away: the share of wrong pixels, and how many there are. NaN where there is no pixel.
    """
    per_class = {
        "boundary_iou": _boundary_iou(counts),
        "border_1px_iou": scores(counts.within(1)).iou,
        "border_iou": scores(counts.within(BORDER)).iou,
        "interior_iou": scores(counts.interior).iou,
    }
    places = [str(distance) for distance in range(1, FARTHEST + 1)] + ["farther"]
    return {
        **{name: dict(zip(names, map(float, values), strict=True)) for name, values in per_class.items()},
        "error": dict(zip(places, map(float, 1 - scores(counts.by_distance).overall_accuracy), strict=True)),
        "pixels": dict(zip(places, map(int, counts.by_distance.sum(axis=(1, 2))), strict=True)),
    }


def _boundary_iou(counts: MapCounts) -> NDArray[np.float64]:
    """size: NaN for a class without a true pixel, or without a border in truth and map."""
    both, either = counts.boundary
    there = (counts.confusion.sum(axis=1) > 0) & (either > 0)
    return np.where(there, both / np.maximum(either, 1), np.nan)


def warnings_of(test: dict[str, dict[str, Any]], ratio: float, windows: int) -> list[str]:
    """What a reader of the test scores ({"weak", "full": named scores}) must know before believing them."""
    weak, full = test["weak"], test["full"]
    found = []
    if ratio > 1:
        found.append(
            f"The ratio is {ratio:.1%}: the reference is worse than what it bounds. It is short of training or of "
            "data, so the ratio says nothing about image labels"
        )
    missing = [name for name, pixels in weak["support"].items() if pixels == 0]
    if missing:
        found.append(f"The test windows hold no pixel of {', '.join(missing)}: the mIoU is a mean without them")
    absent = sorted({*weak["absent_but_predicted"], *full["absent_but_predicted"]})
    if absent:
        found.append(f"Predicted on test although not there (listed, not counted as 0): {', '.join(absent)}")
    if windows < FEW_WINDOWS:
        found.append(f"The test fold holds {windows} windows: another split can give quite another score")
    return found
