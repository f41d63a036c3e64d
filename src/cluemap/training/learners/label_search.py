"""Masks that the image labels alone tell: a search from several random starts, without any CAM (METHOD section 13).

A start gives every pixel one of its window's classes at random. Each round fits a linear discriminant on the masks and
asks it again under the image labels. Where labels are few, four things help: series in which cloudy dates hardly count,
a shrunk covariance, windows that are not asked of a learner that was fitted on their own masks, and classes that keep a
least share of every window that names them (docs/few_labels.md has what each is worth). A start that ends in the wrong
place mostly shows without any mask: its learners are less sure of what the image labels of other windows rule out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cluemap.data.series_features import EVERY, clear_features, even_days
from cluemap.data.splits.labelled_part import even_order
from cluemap.data.windows import Windows
from cluemap.errors import TrainingError
from cluemap.model.method.pseudo_masks import IGNORED
from cluemap.model.method.refinement import allowed, at_least, constrained, decided
from cluemap.training.learners.linear_discriminant import LinearDiscriminant, Moments

PIXELS = 400 * 24**2  # of the windows that are searched at most, drawn with even shares of the classes
FOLDS = 20
ROUNDS = 16
CONFIDENCE = 0.5
LEAST_SHARE = 0.1  # of a window, for each class of its image label, and for 0 (docs/few_labels.md)
SHRINKAGE = 0.1


@dataclass
class Found:
    """A start's end."""

    masks: NDArray[np.uint8]  # n h w
    foretold: float  # mean over pixels of log(probability of the classes that the window's image label allows)


def searched(windows: Windows, starts: int, seed: int, show: bool = False) -> tuple[NDArray[np.uint8], list[float]]:
    """n h w: masks of the training windows; and what each start foretold, of which the best one's masks are given.

    Windows beyond `PIXELS` are 255: the first round of refine_masks reaches them. `show`: a progress bar.

    Raises:
        TrainingError: fewer than two windows have image labels, or no start found anything.
    """
    indexes, size = windows.indexes("train"), windows.card.size
    if len(indexes) < 2:
        raise TrainingError(
            f"refine.start: image_labels compares windows, and {len(indexes)} training window has an image label: give "
            "more (labelled.share, labelled.count), or set refine.start to masks"
        )
    rows = np.sort(even_order(windows.image_labels[indexes], seed)[: max(2, PIXELS // size**2)])
    chosen = indexes[rows]
    features = clear_features(windows, chosen, even_days(windows, indexes, EVERY))
    search = LabelSearch(features, windows.possible[chosen], windows.image_labels[chosen], seed)
    best, scores = Found(np.empty(0, np.uint8), -np.inf), []
    for number in tqdm(range(starts), unit="start", desc="image labels", disable=not show):
        found = search.from_start(number)
        scores.append(found.foretold)
        best = found if found.foretold > best.foretold else best  # never one that is not a number
    if not np.isfinite(best.foretold):
        raise TrainingError(
            f"refine.start: image_labels told nothing apart in {len(rows)} windows: give more image labels, or set "
            "refine.start to masks"
        )
    masks = np.full((len(indexes), size, size), IGNORED, np.uint8)
    masks[rows] = best.masks
    return masks, scores


class LabelSearch:
    """The rounds of a start. A fold's sums are taken once a round; each learner's are those of all other folds."""

    def __init__(
        self, features: NDArray[np.float32], possible: NDArray[np.bool_], labels: NDArray[np.bool_], seed: int
    ):
        """n h w f; n k: whether a class can be in the window; n k: whether it is known to be there."""
        size = features.shape[-1]
        moments = Moments.of(features.reshape(-1, size))
        # a window at a time: in between they are numbers of 64 bits
        self.pixels = np.stack([moments.standardised(one.reshape(-1, size)).reshape(one.shape) for one in features])
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
        """n h w s: of every window as a learner has it that was fitted on the masks of the other folds' windows (of its
        own fold only the classes that no other one has).
        """
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
            unknown = (model.sizes == 0) & (sums[fold].sizes > 0)
            if unknown.any():  # no other fold has these classes, which would be gone for good: learned from their own
                own = rows[:, None, None] & np.isin(masks, np.flatnonzero(unknown))
                model.add(*model.sums_of(self.pixels[own], masks[own].astype(np.int64)))
            found = model.solve().probabilities(self.pixels[rows].reshape(-1, size))
            out[rows] = found.reshape(-1, *masks.shape[1:], self.ids)
        return out

    def foretold(self, answers: NDArray[np.float32]) -> float:
        """How surely what the image labels rule out was ruled out: 0 at best. Says nothing about what is present."""
        right = (answers * self.may[:, None, None]).sum(axis=-1)
        return float(np.log(np.maximum(right, 1e-6)).mean())
