"""Scores of whole maps: overall, near the borders of classes, away from them, and of the borders themselves."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from cluemap.training.metrics import VOID, Ids, confusion, named, scores

BORDER = 2  # pixels on either side of a true class border that count as near it
FEW_WINDOWS = 20  # test windows under which one split is a matter of luck
BAND = 2  # pixels inside a class border that make up the border in the boundary IoU


class MapCounts(NamedTuple):
    """Counts of maps against their truth, which add up over windows and ranks."""

    confusion: NDArray[np.int64]  # size, size + 1
    border: NDArray[np.int64]  # size, size + 1: the pixels within BORDER of a true class border
    boundary: NDArray[np.int64]  # 2, size: intersection and union of true and predicted border bands

    def __add__(self, other: "MapCounts") -> "MapCounts":  # type: ignore[override]  # sums, not a longer tuple
        return MapCounts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @classmethod
    def none(cls, ids: Ids) -> "MapCounts":
        """Counts of no pixel."""
        square = np.zeros((ids.size, ids.size + 1), np.int64)
        return cls(square, square, np.zeros((2, ids.size), np.int64))


def map_counts(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], ids: Ids) -> MapCounts:
    """truth n h w (255 = void), prediction n h w -> counts of these windows. Void is no class: it makes no border."""
    near = border(truth, BORDER)
    return MapCounts(
        confusion=confusion(truth, prediction, ids),
        border=confusion(np.where(near, truth, VOID), prediction, ids),
        boundary=_boundary(truth, prediction, ids),
    )


def border(labels: NDArray[np.uint8], distance: int) -> NDArray[np.bool_]:
    """n h w -> n h w: whether another class lies within `distance` pixels (a square). 255 and the window's edge do not
    count as another class.
    """
    window = (1, 2 * distance + 1, 2 * distance + 1)
    signed = labels.astype(np.int16)
    highest = maximum_filter(np.where(labels == VOID, -1, signed), window, mode="nearest")
    lowest = minimum_filter(np.where(labels == VOID, VOID, signed), window, mode="nearest")
    return (highest > lowest) & (labels != VOID)


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
    "border_miou" (within BORDER of a true class border), "interior_miou" (all other pixels).
    """
    whole = scores(counts.confusion)
    both, either = counts.boundary
    there = (whole.support > 0) & (either > 0)
    return {
        **named(whole, names),
        "boundary_iou": float(np.mean(both[there] / either[there])) if there.any() else float("nan"),
        "border_miou": float(scores(counts.border).miou),
        "interior_miou": float(scores(counts.confusion - counts.border).miou),
    }


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
