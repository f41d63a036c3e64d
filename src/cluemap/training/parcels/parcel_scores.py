"""Scores of parcels: each counted once, or by its area. Classes are 0..k-1 here."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from cluemap.training.metrics import named, scores

LEVEL = 0.95  # of the interval of the accuracy


def counts_of(
    truth: NDArray[np.int64], prediction: NDArray[np.int64], classes: int, weights: NDArray | None = None
) -> NDArray:
    """n, n -> k k+1: confusion as `metrics.scores` takes it, of parcels or of their weights."""
    from sklearn.metrics import confusion_matrix  # half a second: only where it is asked for

    counts = np.zeros((classes, classes + 1), np.int64 if weights is None else np.float64)
    if len(truth):
        counts[:, :-1] = confusion_matrix(truth, prediction, labels=np.arange(classes), sample_weight=weights)
    return counts


def accuracy_interval(right: int, count: int) -> list[float]:
    """Wilson's interval of a share, of LEVEL; [nan, nan] without any parcel."""
    if not count:
        return [float("nan")] * 2
    found = binomtest(right, count).proportion_ci(LEVEL, method="wilson")
    return [float(found.low), float(found.high)]


def parcel_scores(
    probabilities: NDArray, truth: NDArray[np.int64], areas: NDArray[np.float64], names: list[str]
) -> dict[str, Any]:
    """n k, n, n -> {"parcels", "by_count": named scores, "by_area": the same of hectares, "accuracy_interval",
    "macro_f1"}.
    """
    prediction = probabilities.argmax(axis=1)
    counts = counts_of(truth, prediction, len(names))
    by_count, by_area = scores(counts), scores(counts_of(truth, prediction, len(names), areas / 10_000))
    right = int((truth == prediction).sum())
    return {
        "parcels": len(truth),
        "accuracy": float(by_count.overall_accuracy),
        "miou": float(by_count.miou),
        "macro_f1": float(np.nanmean(by_count.f1)) if len(truth) else float("nan"),
        "accuracy_interval": accuracy_interval(right, len(truth)),
        "by_count": named(by_count, names),
        "by_area": named(by_area, names),
        "confusion": counts[:, :-1].tolist(),
    }
