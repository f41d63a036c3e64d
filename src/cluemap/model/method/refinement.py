"""Masks corrected under the image label: what a learner may answer, and which of its answers are kept (METHOD 13).

Ids `s`: 0 (the background, or the rest of the land where a data set has none), then the K crops.
"""

import numpy as np
from numpy.typing import NDArray

from cluemap.model.method.pseudo_masks import IGNORED

SCALINGS = 20  # of the search for a window's factors
STEEPEST = 50.0  # what one of them is multiplied by at most


def allowed(image_labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Image labels n k -> n s: the ids that a pixel of the window may have. 0 is always allowed."""
    return np.concatenate([np.ones((len(image_labels), 1), bool), image_labels], axis=1)


def constrained(probabilities: NDArray[np.float32], may: NDArray[np.bool_]) -> NDArray[np.float32]:
    """n h w s, n s -> n h w s: 0 for what is not allowed, the others sum to 1."""
    held = probabilities * may[:, None, None]
    total = held.sum(axis=-1, keepdims=True)
    evenly = (may / np.maximum(may.sum(axis=-1, keepdims=True), 1)).astype(
        held.dtype
    )  # where the learner says 0 to all
    return np.where(total > 0, held / np.maximum(total, np.finfo(held.dtype).tiny), evenly[:, None, None])


def at_least(probabilities: NDArray[np.float32], present: NDArray[np.bool_], share: float) -> NDArray[np.float32]:
    """n h w s, n s (whether an id shall be in the window) -> n h w s: in each window each of those ids has at least
    `share` of the mean over the pixels, as far as all of them fit and its probabilities are not 0. Sums stay 1.

    An image label says that a class is there: a learner that gives it to no pixel of the window has not learned it. The
    ids' probabilities are multiplied by one number a window, which keeps their order among the pixels.
    """
    held = probabilities.copy()
    for _ in range(SCALINGS):
        mean = held.mean(axis=(1, 2))
        low = present & (mean < share) & (mean > 0)
        windows = low.any(axis=1)
        if not windows.any():
            break
        factor = np.where(low, share / np.maximum(mean, share / STEEPEST), 1).astype(held.dtype)
        scaled = held[windows] * factor[windows, None, None]
        held[windows] = scaled / scaled.sum(axis=-1, keepdims=True)
    return held


def within_parcels(probabilities: NDArray[np.float32], parcels: NDArray[np.int32]) -> NDArray[np.float32]:
    """n h w s, n h w (number of a pixel's parcel, 0 = none) -> n h w s: in each window every pixel of a parcel has the
    mean over that parcel's pixels; pixels of no parcel keep their own.
    """
    window = np.arange(len(parcels))[:, None, None]
    inside = parcels > 0
    _, part = np.unique(window * (int(parcels.max(initial=0)) + 1) + parcels, return_inverse=True)
    part = part.reshape(parcels.shape)[inside]
    held, out = probabilities[inside], probabilities.copy()
    count = np.bincount(part)
    sums = np.stack([np.bincount(part, column, len(count)) for column in held.T], axis=1)
    out[inside] = (sums / np.maximum(count, 1)[:, None])[part]
    return out


def decided(probabilities: NDArray[np.float32], confidence: float) -> NDArray[np.uint8]:
    """n h w s -> n h w: the most probable id, 255 where its probability is under `confidence`."""
    best = probabilities.max(axis=-1)
    return np.where(best >= confidence, probabilities.argmax(axis=-1), IGNORED).astype(np.uint8)


def packed(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """n h w s -> n h w s: in 255ths, a byte each. What is 0 or 1 stays so exactly."""
    return np.rint(probabilities * 255).astype(np.uint8)


def agreement(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Share of equal classes among the pixels that both masks (n h w) decide; NaN where they share none."""
    both = (one != IGNORED) & (other != IGNORED)
    return float((one == other)[both].mean()) if both.any() else float("nan")
