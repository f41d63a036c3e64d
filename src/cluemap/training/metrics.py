"""One definition of each score (METHOD section 9), from counts that add up over batches and ranks.

Label ids: with a background 0..K, without 1..K; 255 = void (truth) or no prediction. Confusions have one row per class
that can be true and one column more: pixels that got no prediction.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

VOID = 255


class Ids(NamedTuple):
    """Which label ids are scored."""

    crops: int  # K
    background: bool

    @property
    def first(self) -> int:
        return 0 if self.background else 1

    @property
    def size(self) -> int:
        return self.crops + self.background


def confusion(truth: NDArray, prediction: NDArray, ids: Ids) -> NDArray[np.int64]:
    """Label arrays of one shape -> counts (size, size + 1): rows true, columns predicted, last column no prediction."""
    scored = truth != VOID
    rows = truth[scored].astype(np.int64) - ids.first
    columns = np.where(prediction[scored] == VOID, ids.size, prediction[scored].astype(np.int64) - ids.first)
    counts = np.bincount(rows * (ids.size + 1) + columns, minlength=ids.size * (ids.size + 1))
    return counts.reshape(ids.size, ids.size + 1)


class Scores(NamedTuple):
    """Scores of one confusion; NaN for a class without a true pixel (and precision: without a predicted one)."""

    overall_accuracy: NDArray[np.float64]  # a number for one confusion, an array for many
    balanced_accuracy: NDArray[np.float64]  # mean recall of the classes that are there
    miou: NDArray[np.float64]
    iou: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]  # true pixels of each class
    predicted: NDArray[np.int64]


def scores(counts: NDArray) -> Scores:
    """Counts (..., size, size + 1) -> scores.

    mIoU and balanced accuracy are means over the classes that have a true pixel. A class that the split does not hold
    but that is predicted there costs the classes whose pixels it takes; it is listed (`named`), not counted as a 0.
    On PASTIS and Germany every class is in every fold, so this is the paper's mIoU.
    """
    size = counts.shape[-2]
    hit = np.diagonal(counts[..., :size], axis1=-2, axis2=-1).astype(np.float64)
    true, predicted = counts.sum(axis=-1), counts[..., :size].sum(axis=-2)
    there = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(there, hit / (true + predicted - hit), np.nan)
        precision, recall = hit / predicted, hit / true
        f1 = np.where(there, 2 * hit / (true + predicted), np.nan)
        accuracy = hit.sum(axis=-1) / true.sum(axis=-1)
    return Scores(accuracy, _mean_of_known(recall), _mean_of_known(iou), iou, precision, recall, f1, true, predicted)


def _mean_of_known(values: NDArray) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def named(result: Scores, names: list[str]) -> dict:
    """Scores as nested plain numbers: {"overall_accuracy", "balanced_accuracy", "miou", "iou": {class name: ...},
    "f1": {...}, "support": {class name: true pixels}, "absent_but_predicted": {class name: predicted pixels}}.
    """
    absent = {
        name: int(pixels)
        for name, pixels, true in zip(names, result.predicted, result.support, strict=True)
        if pixels and not true
    }
    return {
        "overall_accuracy": float(result.overall_accuracy),
        "balanced_accuracy": float(result.balanced_accuracy),
        "miou": float(result.miou),
        "iou": dict(zip(names, map(float, result.iou), strict=True)),
        "f1": dict(zip(names, map(float, result.f1), strict=True)),
        "support": dict(zip(names, map(int, result.support), strict=True)),
        "absent_but_predicted": absent,
    }


def class_names(legend) -> list[str]:
    """Names of the scored ids of a Legend, in the order of the confusion's rows."""
    return ["background"] * legend.background + [crop.name for crop in legend.classes]


# ------------------------------------------------------------------ the threshold curve, in one pass


class Curve(NamedTuple):
    """Scores of the pseudo masks at every threshold."""

    thresholds: NDArray[np.float64]
    overall_accuracy: NDArray[np.float64]
    miou: NDArray[np.float64]

    @property
    def best(self) -> int:
        """Index of the threshold with the highest mIoU."""
        return 0 if np.isnan(self.miou).all() else int(np.nanargmax(self.miou))


def curve_thresholds(points: int) -> NDArray[np.float64]:
    """`points` even thresholds in [0, 1)."""
    return np.arange(points) / points


def curve_counts(score: NDArray, winner: NDArray, truth: NDArray, points: int, ids: Ids) -> NDArray[np.int64]:
    """Best score, its class (1..K) and truth per pixel -> counts (points + 1, size true, K winners).

    Bin i holds the pixels whose score beats exactly i of the thresholds, as `pseudo_mask` has it. Adds up over batches
    and ranks.
    """
    scored = truth != VOID
    above = np.searchsorted(curve_thresholds(points), score[scored], side="left" if ids.background else "right")
    rows = truth[scored].astype(np.int64) - ids.first
    flat = (above * ids.size + rows) * ids.crops + winner[scored].astype(np.int64) - 1
    shape = (points + 1, ids.size, ids.crops)
    return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)


def curve(counts: NDArray[np.int64], ids: Ids) -> Curve:
    """Counts of `curve_counts` -> OA and mIoU at every threshold: pixels not over it are background (or unlabelled)."""
    points = len(counts) - 1
    over = counts[::-1].cumsum(axis=0)[::-1][1:]  # points, size, K: pixels that beat threshold i
    under = counts.sum(axis=(0, 2)) - over.sum(axis=2)  # points, size
    full = np.zeros((points, ids.size, ids.size + 1), dtype=np.int64)
    full[:, :, ids.background : ids.size] = over
    full[:, :, 0 if ids.background else ids.size] += under
    result = scores(full)
    return Curve(curve_thresholds(points), np.asarray(result.overall_accuracy), np.asarray(result.miou))


def average_precision(scores_: NDArray, labels: NDArray, known: NDArray | None = None) -> dict[str, Any]:
    """n K scores, n K bool -> "macro" (over classes with a positive), "micro", "classes" (NaN: class not there); over
    the windows of which it is `known` (n K bool, None: all) whether they hold the class."""
    from sklearn.metrics import average_precision_score  # half a second: only where it is asked for

    told = np.ones(labels.shape, bool) if known is None else known
    there = np.asarray((labels & told).any(axis=0))
    classes = [
        float(average_precision_score(labels[told[:, k], k], scores_[told[:, k], k])) if there[k] else float("nan")
        for k in range(labels.shape[1])
    ]
    micro = float(average_precision_score(labels[told], scores_[told])) if there.any() else float("nan")
    return {"macro": float(_mean_of_known(np.array(classes))), "micro": micro, "classes": classes}
