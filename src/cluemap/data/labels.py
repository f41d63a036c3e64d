"""Image labels (what the weak supervision is) and the official splits."""

import numpy as np
from numpy.typing import NDArray

FOLDS = 5


def image_labels(masks: NDArray[np.uint8], classes: int, presence: float) -> NDArray[np.bool_]:
    """n h w -> n k: class k (ids 1..`classes`) covers more than the share `presence` of the window.

    The share is of all pixels: void and background count as pixels without the class. 0.01 of 576 px means 6 or more.
    """
    ids = np.arange(1, classes + 1, dtype=np.uint8)
    counts = np.stack([(masks == number).sum(axis=(1, 2)) for number in ids], axis=1)  # n k
    return counts > presence * masks.shape[1] * masks.shape[2]


def split_of(fold: int, official: int) -> str:
    """Which split the patches of `fold` (1..5) belong to in official split `official`: three folds from that number
    on (round the circle of five) train, the next validates, the next tests."""
    place = (fold - official) % FOLDS
    return ("train", "train", "train", "validation", "test")[place]
