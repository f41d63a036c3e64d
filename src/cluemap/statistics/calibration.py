"""Is 80 % confidence right in 80 % of the cases? Reliability, its error, and one temperature that mends it.

Guo et al. 2017, "On calibration of modern neural networks". Axes: n pixel, k class. Logits may be logarithms of
probabilities: a softmax does not care.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from cluemap.errors import DataError

Floats = NDArray[np.float64]
COLDEST, HOTTEST = 0.02, 50.0  # bounds of the search for a temperature


@dataclass(frozen=True)
class Reliability:
    """Sums by bin of confidence; those of two batches add up. Bin i of B holds confidences in (i / B, (i + 1) / B]."""

    count: NDArray[np.int64]
    confidence: Floats  # sum
    right: NDArray[np.int64]

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.count + other.count, self.confidence + other.confidence, self.right + other.right
        )  # fmt: skip

    @property
    def mean_confidence(self) -> Floats:
        """Of every bin, NaN where it is empty: the x of a reliability diagram."""
        return np.where(self.count > 0, self.confidence / np.maximum(self.count, 1), np.nan)

    @property
    def accuracy(self) -> Floats:
        """Of every bin, NaN where it is empty: the y of a reliability diagram."""
        return np.where(self.count > 0, self.right / np.maximum(self.count, 1), np.nan)

    @property
    def expected_error(self) -> float:
        """ECE: mean distance of accuracy and confidence, weighted by the bins' counts; NaN without any pixel."""
        total = int(self.count.sum())
        return float(np.abs(self.right - self.confidence).sum() / total) if total else float("nan")


def reliability(probabilities: Floats, labels: NDArray, bins: int = 15) -> Reliability:
    """n k, n -> sums by bin of the winner's probability."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    sums = np.asarray(np.bincount(place, confidence, minlength=bins), np.float64)
    return Reliability(np.bincount(place, minlength=bins), sums, np.bincount(place[right], minlength=bins))


def fit_temperature(logits: Floats, labels: NDArray) -> float:
    """n k, n -> the T for which softmax(logits / T) gives the labels the highest likelihood.

    Raises:
        DataError: no labels.
    """
    if not len(labels):
        raise DataError("a temperature wants labelled pixels, the validation fold has none: label some of it")

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits, labels, float(np.exp(log_temperature)))

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def negative_log_likelihood(logits: Floats, labels: NDArray, temperature: float = 1.0) -> float:
    """n k, n -> mean over n."""
    return float(-log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean())


def calibrated(logits: Floats, temperature: float) -> Floats:
    """n k -> n k: probabilities. The winner stays the winner."""
    return np.asarray(softmax(logits / temperature, axis=1))


def entropy(probabilities: NDArray) -> Floats:
    """... k -> ...: 0 (sure) to 1 (all classes alike; with one class always sure)."""
    safe = np.where(probabilities > 0, probabilities, 1.0)
    most = np.log(max(probabilities.shape[-1], 2))
    return np.asarray(np.clip(-(probabilities * np.log(safe)).sum(axis=-1) / most, 0, 1), np.float64)
