"""Learners that see one pixel's series at a time: gradient-boosted trees and a random forest (scikit-learn)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from cluemap.data.series_features import even_days, features
from cluemap.data.windows import Windows
from cluemap.errors import TrainingError
from cluemap.model.method.pseudo_masks import IGNORED

EVERY = 15  # days between two places of the even series that the learners are given
CHUNK = 64  # windows whose features are in memory at once


class PixelLearner:
    """Learns class ids of pixels from masks; says the probability of every scored class of every pixel."""

    def __init__(self, model: Any, windows: Windows, seed: int):
        self.model, self.windows, self.seed = model, windows, seed
        legend = windows.card.legend
        self.first, self.size = 0 if legend.background else 1, len(legend.classes) + legend.background
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
            flat = self.model.predict_proba(found.reshape(-1, found.shape[-1])).astype(np.float32)
            out[..., columns] = flat.reshape(*found.shape[:3], -1)
            yield slice(start, start + len(found)), out

    def maps(self, indexes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """n h w: the most probable class of every pixel."""
        parts = [found.argmax(axis=-1) + self.first for _, found in self.probabilities(indexes)]
        return np.concatenate(parts).astype(np.uint8)


def trees(windows: Windows, seed: int, rounds: int, leaves: int) -> PixelLearner:
    """Gradient-boosted trees."""
    model = HistGradientBoostingClassifier(
        max_iter=rounds, max_leaf_nodes=leaves, learning_rate=0.15, early_stopping=False, random_state=seed
    )
    return PixelLearner(model, windows, seed)


def forest(windows: Windows, seed: int, count: int) -> PixelLearner:
    """A random forest of `count` trees."""
    return PixelLearner(RandomForestClassifier(count, min_samples_leaf=3, n_jobs=-1, random_state=seed), windows, seed)
