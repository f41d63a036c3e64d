"""Masks that the image labels alone tell: a search from several random starts, without any CAM (METHOD section 13).

A start gives every pixel one of its window's classes at random. Each round fits a linear discriminant on the masks and
asks it again under the image labels. Where labels are few, four things make this work: series in which cloudy dates
hardly count, a shrunk covariance, windows that are never asked of a learner that was fitted on their own masks, and
classes that keep a least share of every window that names them (docs/few_labels.md has what each is worth). A start
that ends in the wrong place shows without any mask: its learners foretell the image labels of windows they were not
fitted on less well.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cluemap.data.series_features import SeriesFeatures
from cluemap.data.splits.labelled_part import even_order
from cluemap.data.windows import Windows
from cluemap.model.method.pseudo_masks import IGNORED
from cluemap.model.method.refinement import allowed, at_least, constrained, decided
from cluemap.training.learners.linear_discriminant import LinearDiscriminant, Moments

WINDOWS = 400  # that are searched at most, drawn with even shares of the classes; a learner of them asks the others
FOLDS = 10
ROUNDS = 16
CONFIDENCE = 0.5
LEAST_SHARE = 0.1  # of a window, for each class of its image label
SHRINKAGE = 0.1


@dataclass
class Found:
    """A start's end."""

    masks: NDArray[np.uint8]  # n h w
    foretold: float  # mean over pixels of log(probability of the classes that the window's image label allows)


def searched(windows: Windows, starts: int, seed: int, show: bool = False) -> tuple[NDArray[np.uint8], list[float]]:
    """n h w: masks of the training windows; and what each start foretold, of which the best one's masks are given.

    Windows beyond `WINDOWS` are 255: the first round of refine_masks reaches them. `show`: a progress bar.
    """
    indexes, size = windows.indexes("train"), windows.card.size
    chosen = np.sort(even_order(windows.image_labels[indexes], seed)[:WINDOWS])
    features = SeriesFeatures(windows, clear=True)
    search = LabelSearch(
        features(indexes[chosen]), windows.possible[indexes[chosen]], windows.image_labels[indexes[chosen]], seed
    )
    best, scores = None, []
    for number in tqdm(range(starts), unit="start", desc="image labels", disable=not show):
        found = search.from_start(number)
        scores.append(found.foretold)
        if best is None or found.foretold > best.foretold:
            best = found
    masks = np.full((len(indexes), size, size), IGNORED, np.uint8)
    masks[chosen] = best.masks if best else IGNORED
    return masks, scores


class LabelSearch:
    """The rounds of a start. A fold's sums are taken once a round; each learner's are those of all other folds."""

    def __init__(
        self, features: NDArray[np.float32], possible: NDArray[np.bool_], labels: NDArray[np.bool_], seed: int
    ):
        """n h w f; n k: whether a class can be in the window; n k: whether it is known to be there."""
        moments, flat = Moments.none(features.shape[-1]), features.reshape(-1, features.shape[-1])
        moments.add(Moments.of(flat))
        self.pixels: NDArray[np.float32] = moments.standardised(flat).reshape(features.shape)
        self.may = allowed(possible)
        self.present = allowed(labels)
        self.seed, self.ids = seed, self.may.shape[1]
        folds = min(FOLDS, len(features))
        self.fold = np.random.default_rng([seed, 0]).permutation(len(features)) % folds
        self.folds = range(folds)

    def from_start(self, number: int) -> Found:
        draw = np.random.default_rng([self.seed, 1, number])
        masks = np.empty(self.pixels.shape[:3], np.uint8)
        for mask, may in zip(masks, self.may, strict=True):
            mask[:] = draw.choice(np.flatnonzero(may), mask.shape)
        for _ in range(ROUNDS):
            answers = self.answers(masks)
            masks = decided(at_least(constrained(answers, self.may), self.present, LEAST_SHARE), CONFIDENCE)
        return Found(masks, self.foretold(self.answers(masks)))

    def answers(self, masks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """n h w s: of every window as a learner has it that was fitted on the masks of the other folds' windows."""
        size = self.pixels.shape[-1]
        sums = []
        for fold in self.folds:
            model, taught = LinearDiscriminant(size, self.ids, even=True), self.fold == fold
            known = masks[taught] != IGNORED
            model.add(*model.sums_of(self.pixels[taught][known], masks[taught][known].astype(np.int64)))
            sums.append(model)
        out = np.empty((*masks.shape, self.ids), np.float32)
        for fold in self.folds:
            model = LinearDiscriminant(size, self.ids, even=True, shrinkage=SHRINKAGE)
            for other, part in enumerate(sums):
                if other != fold or len(self.folds) == 1:
                    model.add(part.sizes, part.sums, part.second)
            rows = self.fold == fold
            found = model.solve().probabilities(self.pixels[rows].reshape(-1, size))
            out[rows] = found.reshape(-1, *masks.shape[1:], self.ids)
        return out

    def foretold(self, answers: NDArray[np.float32]) -> float:
        right = (answers * self.may[:, None, None]).sum(axis=-1)
        return float(np.log(np.maximum(right, 1e-6)).mean())
