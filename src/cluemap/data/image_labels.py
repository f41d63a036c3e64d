"""Image labels (what the weak supervision is) and the official splits."""

import numpy as np
from numpy.typing import NDArray

from cluemap.data.patches import VOID, Knowledge

FOLDS = 5


def image_labels(masks: NDArray[np.uint8], classes: int, presence: float) -> NDArray[np.bool_]:
    """n h w -> n k: class k (ids 1..`classes`) covers more than the share `presence` of the window.

    The share is of all pixels: void and background count as pixels without the class. 0.01 of 576 px means 6 or more.
    """
    ids = np.arange(1, classes + 1, dtype=np.uint8)
    counts = np.stack([(masks == number).sum(axis=(1, 2)) for number in ids], axis=1)  # n k
    return counts > presence * masks.shape[1] * masks.shape[2]


def known_labels(
    labels: NDArray[np.uint8], known: Knowledge, rows: slice, columns: slice, presence: float
) -> NDArray[np.bool_] | None:
    """h w -> k: the classes that the window (rows, columns) is known to hold; None if nothing is known of it.

    From areas: the crops of those that cover at least the share `known.cover` of the window. Else from the labels, as
    `image_labels`; a window with land that has no label and without any class says nothing.
    """
    if known.areas is not None and known.crops is not None:
        inside = known.areas[rows, columns]
        numbers, counts = np.unique(inside[inside >= 0], return_counts=True)
        numbers = numbers[counts >= known.cover * inside.size]
        return np.asarray(known.crops[numbers].any(axis=0)) if len(numbers) else None
    window = labels[rows, columns]
    share = presence if known.presence is None else known.presence
    held = image_labels(window[None], known.classes, share)[0]
    return held if held.any() or not (window == VOID).any() else None


def certain_classes(
    held: NDArray[np.bool_], labels: NDArray[np.uint8], known: Knowledge, rows: slice, columns: slice
) -> NDArray[np.bool_]:
    """k, h w -> k: of which classes it is known whether the window (rows, columns) holds them; those it holds are.

    Unknown are the classes of fields that are hidden here, and with `silence: unknown` all that is not held, unless
    every pixel of the window has a label.
    """
    certain = np.ones_like(held)
    complete = known.areas is None and not (labels[rows, columns] == VOID).any()
    if known.silence == "unknown" and not complete:
        certain = held.copy()
    if known.hidden is not None:
        there = np.unique(known.hidden[rows, columns])
        crops = there[(there >= 1) & (there <= known.classes)].astype(np.int64) - 1
        certain[crops] = held[crops]
    return certain


def stays_unlabelled(known: Knowledge, rows: slice, columns: slice) -> bool:
    """Whether the training window (rows, columns), of which nothing is known, stays for methods that learn from images;
    never where it shows a field of another split.
    """
    return known.keep and (known.hidden is None or bool((known.hidden[rows, columns] == VOID).all()))


def split_of(fold: int, official: int) -> str:
    """Which split the patches of `fold` (1..5) belong to in official split `official`: three folds from that number
    on (round the circle of five) train, the next validates, the next tests."""
    place = (fold - official) % FOLDS
    return ("train", "train", "train", "validation", "test")[place]
