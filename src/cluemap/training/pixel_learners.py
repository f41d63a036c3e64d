"""Learners that see one pixel's series at a time (scikit-learn): a linear one, gradient-boosted trees, a random forest.

Features are the bands at every 15th day (see `series_features`).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from cluemap.data.series_features import even_days, features
from cluemap.data.windows import Windows
from cluemap.errors import TrainingError
from cluemap.model.method.pseudo_masks import IGNORED

EVERY = 15  # days between two places of the even series that the learners are given
CHUNK = 64  # windows whose features are in memory at once
ROWS = 4096  # pixels asked about at once: scikit-learn's trees are many times slower on more
FARTHEST = 5.0  # standard deviations at which the linear learner's features are cut off: clouds must not rule it


class PixelLearner:
    """Learns class ids of pixels from masks; says the probability of every scored class of every pixel."""

    def __init__(self, model: Any, windows: Windows, seed: int, with_zero: bool):
        """with_zero: the id 0 is a class too, as it is wherever the data set has a background."""
        self.model, self.windows, self.seed = model, windows, seed
        legend = windows.card.legend
        zero = legend.background or with_zero
        self.first, self.size = 0 if zero else 1, len(legend.classes) + zero
        self.days: NDArray[np.int64] = np.zeros(0, np.int64)

    def fit(self, indexes: NDArray[np.int64], masks: NDArray[np.uint8], pixels: int) -> "PixelLearner":
        """Learn from `pixels` pixels drawn from those of these windows that are not 255; masks n h w, a row a window.

        Raises:
            TrainingError: no pixel is labelled.
        """
        labelled = np.flatnonzero(masks != IGNORED)
        if not len(labelled):
            raise TrainingError("no pixel of the masks is labelled: lower masks.threshold or refine.confidence")
        chosen = np.random.default_rng(self.seed).permutation(labelled)[:pixels]
        chosen.sort()
        self.days = even_days(self.windows, indexes, EVERY)
        area = masks.shape[1] * masks.shape[2]
        parts = []
        for start in range(0, len(indexes), CHUNK):
            here = chosen[(chosen >= start * area) & (chosen < (start + CHUNK) * area)] - start * area
            wanted = np.unique(here // area)  # windows without a chosen pixel are not read
            found = features(self.windows, indexes[start + wanted], self.days)
            parts.append(found.reshape(-1, found.shape[-1])[np.searchsorted(wanted, here // area) * area + here % area])
        self.model.fit(np.concatenate(parts), masks.ravel()[chosen])
        return self

    def probabilities(self, indexes: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Chunk by chunk: rows of `indexes`, and n h w s."""
        columns = self.model.classes_.astype(np.int64) - self.first
        for start in range(0, len(indexes), CHUNK):
            found = features(self.windows, indexes[start : start + CHUNK], self.days)
            out = np.zeros((*found.shape[:3], self.size), np.float32)
            pixels, flat = found.reshape(-1, found.shape[-1]), out.reshape(-1, self.size)
            for row in range(0, len(pixels), ROWS):
                flat[row : row + ROWS, columns] = self.model.predict_proba(pixels[row : row + ROWS])
            yield slice(start, start + len(found)), out

    def maps(self, indexes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """n h w: the most probable class of every pixel."""
        parts = [found.argmax(axis=-1) + self.first for _, found in self.probabilities(indexes)]
        return np.concatenate(parts).astype(np.uint8)


def linear(windows: Windows, seed: int, even: bool = False, with_zero: bool = False) -> PixelLearner:
    """Linear discriminant analysis. even: all classes are equally likely beforehand, however many pixels they have."""
    return PixelLearner(_Linear(even), windows, seed, with_zero)


def trees(windows: Windows, seed: int, rounds: int, leaves: int, with_zero: bool = False) -> PixelLearner:
    """Gradient-boosted trees."""
    model = HistGradientBoostingClassifier(
        max_iter=rounds, max_leaf_nodes=leaves, learning_rate=0.2, max_bins=63, early_stopping=False, random_state=seed
    )
    return PixelLearner(model, windows, seed, with_zero)


def forest(windows: Windows, seed: int, count: int) -> PixelLearner:
    """A random forest of `count` trees."""
    model = RandomForestClassifier(count, min_samples_leaf=3, n_jobs=-1, random_state=seed)
    return PixelLearner(model, windows, seed, with_zero=False)


class _Linear:
    """LDA on standardised, cut-off features; its priors are known only when the classes are."""

    def __init__(self, even: bool):
        self.even = even

    def fit(self, features: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
        self.classes_ = np.unique(labels)
        priors = np.full(len(self.classes_), 1 / len(self.classes_)) if self.even else None
        self.model = make_pipeline(
            StandardScaler(),
            FunctionTransformer(np.clip, kw_args={"a_min": -FARTHEST, "a_max": FARTHEST}),
            LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01, priors=priors),
        ).fit(features, labels)

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.model.predict_proba(features)
