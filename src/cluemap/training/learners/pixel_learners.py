"""Learners that see one pixel's series at a time: a linear one, and scikit-learn's boosted trees and random forest.

Features are the bands at every 15th day (see `series_features`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.data.series_features import SeriesFeatures
from cluemap.errors import TrainingError
from cluemap.model.method.pseudo_masks import IGNORED
from cluemap.runtime.distributed import ALONE, Ranks
from cluemap.training.learners.linear_discriminant import LinearDiscriminant, Moments

CHUNK = 64  # windows whose features are looked at together
ROWS = 4096  # pixels that scikit-learn is asked about at once: its trees are many times slower on more


class PixelLearner(ABC):
    """Learns ids of pixels from masks; says the probability of every id of every pixel."""

    def __init__(self, features: SeriesFeatures, with_zero: bool, ranks: Ranks = ALONE):
        """with_zero: the id 0 is a class too, as it is wherever the data set has a background. ranks: the processes
        that fit it together; all hold the same learner then, to the bit that of one process.
        """
        self.features, self.ranks = features, ranks
        legend = features.windows.card.legend
        zero = legend.background or with_zero
        self.first, self.size = 0 if zero else 1, len(legend.classes) + zero

    @abstractmethod
    def fit(self, indexes: NDArray[np.int64], masks: NDArray[np.uint8]) -> "PixelLearner":
        """Learn from the pixels of these windows that are not 255; masks n h w, a row a window.

        Raises:
            TrainingError: no pixel is labelled.
        """

    @abstractmethod
    def answers(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """p f -> p s: the probability of each id, from `first` on."""

    def probabilities(self, indexes: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Chunk by chunk: rows of `indexes`, and n h w s."""
        for start in range(0, len(indexes), CHUNK):
            found = self.of(indexes[start : start + CHUNK])
            yield slice(start, start + len(found)), found

    def of(self, indexes: NDArray[np.int64]) -> NDArray[np.float32]:
        """n h w s: the probability of every id of these windows' pixels."""
        found = self.features(indexes)
        answers = self.answers(found.reshape(-1, found.shape[-1]))
        return answers.reshape(*found.shape[:3], self.size)

    def maps(self, indexes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """n h w: the most probable id of every pixel."""
        parts = [found.argmax(axis=-1) + self.first for _, found in self.probabilities(indexes)]
        return np.concatenate(parts).astype(np.uint8)


class LinearLearner(PixelLearner):
    """Linear discriminant analysis on every labelled pixel: too few numbers to learn the errors of masks by heart."""

    def __init__(self, features: SeriesFeatures, even: bool = False, with_zero: bool = False, ranks: Ranks = ALONE):
        """even: all ids are equally likely beforehand, however many pixels they have."""
        super().__init__(features, with_zero, ranks)
        self.even = even

    def fit(self, indexes: NDArray[np.int64], masks: NDArray[np.uint8]) -> "LinearLearner":
        check_labelled(masks)
        count, chunks = self.features.count, range(0, len(indexes), CHUNK)
        pixels: Callable[[int], NDArray] = lambda start: self.features(indexes[start : start + CHUNK]).reshape(
            -1, count
        )
        moments, model = Moments.none(count), LinearDiscriminant(count, self.size, self.even)
        for part in self.ranks.shared_out(chunks, lambda start: Moments.of(pixels(start))):
            moments.add(part)
        self.moments = moments = self.ranks.agree(moments)

        def sums(start: int) -> tuple[NDArray, ...]:
            labels = masks[start : start + CHUNK].ravel()
            known = labels != IGNORED
            found = moments.standardised(pixels(start)[known])
            return model.sums_of(found, labels[known].astype(np.int64) - self.first)

        for part in self.ranks.shared_out(chunks, sums):
            model.add(*part)
        self.model = self.ranks.agree(model.solve() if self.ranks.first else None)
        return self

    def answers(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.model.probabilities(self.moments.standardised(pixels))


class SampledLearner(PixelLearner):
    """A classifier of scikit-learn on a sample of the labelled pixels."""

    def __init__(
        self,
        model: Any,
        features: SeriesFeatures,
        pixels: int,
        seed: int,
        with_zero: bool = False,
        ranks: Ranks = ALONE,
    ):
        super().__init__(features, with_zero, ranks)
        self.model, self.pixels, self.seed = model, pixels, seed

    def fit(self, indexes: NDArray[np.int64], masks: NDArray[np.uint8]) -> "SampledLearner":
        check_labelled(masks)
        if self.ranks.first:
            self._fit(indexes, masks)
        self.model = self.ranks.agree(self.model)
        return self

    def _fit(self, indexes: NDArray[np.int64], masks: NDArray[np.uint8]) -> None:
        chosen = np.random.default_rng(self.seed).permutation(np.flatnonzero(masks != IGNORED))[: self.pixels]
        window, pixel = np.divmod(np.sort(chosen), masks.shape[1] * masks.shape[2])
        parts = []
        for row in np.unique(window):  # windows without a chosen pixel are not read
            parts.append(
                self.features(indexes[row : row + 1])[0].reshape(-1, self.features.count)[pixel[window == row]]
            )
        self.model.fit(np.concatenate(parts), masks.ravel()[np.sort(chosen)])

    def answers(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        columns = self.model.classes_.astype(np.int64) - self.first
        out = np.zeros((len(pixels), self.size), np.float32)
        if len(columns) == 1:  # scikit-learn's trees answer as if there were two
            out[:, columns] = 1.0
            return out
        for row in range(0, len(pixels), ROWS):
            out[row : row + ROWS, columns] = self.model.predict_proba(pixels[row : row + ROWS])
        return out


def trees(
    features: SeriesFeatures,
    pixels: int,
    seed: int,
    rounds: int,
    leaves: int,
    with_zero: bool = False,
    ranks: Ranks = ALONE,
) -> SampledLearner:
    """Gradient-boosted trees. Slow steps and leaves that are not small: with a rate of 0.2 and leaves of 20 pixels one
    training of three on noisy masks came apart (validation mIoU 0.65 instead of 0.81).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier  # half a second: only where it is asked for

    model = HistGradientBoostingClassifier(
        max_iter=rounds, max_leaf_nodes=leaves, learning_rate=0.1, l2_regularization=1.0, min_samples_leaf=50,
        max_bins=63, early_stopping=False, random_state=seed,
    )  # fmt: skip
    return SampledLearner(model, features, pixels, seed, with_zero, ranks)


def forest(features: SeriesFeatures, pixels: int, seed: int, count: int) -> SampledLearner:
    """A random forest of `count` trees."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(count, min_samples_leaf=3, n_jobs=-1, random_state=seed)
    return SampledLearner(model, features, pixels, seed)


def check_labelled(masks: NDArray[np.uint8]) -> None:
    if not (masks != IGNORED).any():
        raise TrainingError("no pixel of the masks is labelled: lower masks.threshold or refine.confidence")
