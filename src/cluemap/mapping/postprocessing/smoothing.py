"""Fewer specks: a vote among neighbours, by class or by probability, then a minimum mapping unit. Pure functions.

Land that was not seen (`void`) stays so, has no vote, and parts what lies on either side. Axes: h w pixels, k class.
"""

import numpy as np
from numpy.typing import NDArray
from rasterio.features import sieve
from scipy.ndimage import convolve1d

Classes = NDArray[np.uint8]
CONNECTED = 4  # neighbours by which pixels hang together: diagonals do not count, as in field_polygons


def majority(classes: Classes, void: int, window: int) -> Classes:
    """h w -> h w: the most frequent class among `window` x `window` pixels; a pixel's own class wins a tie."""
    ids = [int(number) for number in np.unique(classes) if number != void]
    return _winners(classes, ids, void, (classes == number for number in ids), window)


def most_probable(classes: Classes, shares: NDArray[np.uint8], ids: list[int], void: int, window: int) -> Classes:
    """h w, k h w (percent, of the classes `ids`) -> h w: the class of the highest mean probability in the window."""
    seen = classes != void
    return _winners(classes, ids, void, (np.where(seen, share, 0) for share in shares), window)


def _winners(classes: Classes, ids: list[int], void: int, votes, window: int) -> Classes:
    """The id with the most votes around every pixel; of equal ones the pixel's own, then the first."""
    found, most = classes.copy(), np.full(classes.shape, -1, np.int64)
    for number, vote in zip(ids, votes, strict=True):
        score = 2 * box_sum(vote.astype(np.int64), window) + (classes == number)
        better = score > most
        found[better], most[better] = number, score[better]
    return np.where(classes == void, classes, found)


def box_sum(values: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """h w -> h w: sum over the `window` x `window` pixels around each; nothing lies beyond the edge."""
    ones = np.ones(window, np.int64)
    rows = convolve1d(values, ones, axis=0, mode="constant")
    return np.asarray(convolve1d(rows, ones, axis=1, mode="constant"))


def without_small_patches(classes: Classes, void: int, pixels: int) -> Classes:
    """h w -> h w: connected patches of less than `pixels` take the class of their largest neighbour.

    A small patch with no neighbour that is large enough, on small seen islands, stays as it is.
    """
    if pixels <= 1:
        return classes.copy()
    return np.asarray(sieve(classes, pixels, mask=classes != void, connectivity=CONNECTED), np.uint8)
