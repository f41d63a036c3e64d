"""Which fields or windows to label next: those the model is unsure of, unlike what is labelled, and far apart.

Axes: n candidate, m labelled field, k class, d feature (a mean series, or an embedding).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cluemap.errors import DataError
from cluemap.statistics.calibration import entropy

Floats = NDArray[np.float64]
FLOOR = 0.05  # of each factor, so that none alone rules a candidate out


@dataclass(frozen=True)
class Candidates:
    """What could be labelled."""

    probabilities: Floats  # n k, calibrated
    features: Floats  # n d
    places: Floats  # n 2, metres


@dataclass(frozen=True)
class Choice:
    """In the order in which they should be labelled."""

    candidates: NDArray[np.intp]  # numbers of the chosen
    uncertainty: Floats  # 0..1
    novelty: Floats  # 0..1, when it was chosen
    score: Floats


def label_next(candidates: Candidates, labelled_features: Floats, count: int, apart: float) -> Choice:
    """The `count` candidates whose labels would teach most, chosen one after the other.

    Score = uncertainty x novelty x spread: entropy of the class probabilities; distance to the nearest labelled or
    chosen features, as a share of the candidates' 90th percentile; distance to the nearest chosen place as a share of
    `apart` metres, at most 1. A chosen one counts as labelled, so that ten fields alike are asked for once.

    Raises:
        DataError: more asked for than there are, or sizes that do not fit.
    """
    n = len(candidates.probabilities)
    if not (len(candidates.features) == len(candidates.places) == n) or count > n:
        raise DataError(
            f"{count} of {n} candidates with {len(candidates.features)} features and {len(candidates.places)} places: "
            "give one of each per candidate, and ask for no more than there are"
        )
    features = _scaled(candidates.features)
    unsure = entropy(candidates.probabilities)
    far = _distances(features, _scaled_like(candidates.features, labelled_features))
    unit = max(float(np.quantile(far[np.isfinite(far)], 0.9)) if np.isfinite(far).any() else 1.0, 1e-12)
    away, free = np.full(n, np.inf), np.ones(n, bool)
    found: list[tuple[int, float, float]] = []
    for _ in range(count):
        novelty = np.clip(far / unit, 0, 1)
        spread = np.clip(away / apart, 0, 1) if apart > 0 else np.ones(n)
        score = np.maximum(unsure, FLOOR) * np.maximum(novelty, FLOOR) * np.maximum(spread, FLOOR)
        best = int(np.where(free, score, -1.0).argmax())
        found.append((best, float(novelty[best]), float(score[best])))
        free[best] = False
        far = np.minimum(far, np.linalg.norm(features - features[best], axis=1))
        away = np.minimum(away, np.linalg.norm(candidates.places - candidates.places[best], axis=1))
    numbers = np.array([best for best, _, _ in found], np.intp)
    return Choice(numbers, unsure[numbers], np.array([one[1] for one in found]), np.array([one[2] for one in found]))


def _distances(features: Floats, labelled: Floats) -> Floats:
    """n d, m d -> n: to the nearest labelled; infinite where nothing is labelled yet."""
    if not len(labelled):
        return np.full(len(features), np.inf)
    return np.asarray(KDTree(labelled).query(features)[0])


def _scaled(features: Floats) -> Floats:
    return _scaled_like(features, features)


def _scaled_like(model: Floats, features: Floats) -> Floats:
    """Each feature in standard deviations of the candidates'."""
    deviation = model.std(axis=0)
    return np.asarray((features - model.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0))
