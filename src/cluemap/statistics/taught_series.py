"""A sample of the series that a model is taught, and of others that are held out, to be kept in its file."""

import numpy as np
import torch
from numpy.typing import NDArray

from cluemap.data.patches import NODATA, VOID
from cluemap.data.series_features import EVERY, even_days, features
from cluemap.data.windows import Windows
from cluemap.model.storage.known_series import KnownSeries

OF_A_CLASS, WINDOWS = 100, 20  # pixels, from up to so many windows
HELD = 1000  # pixels
FEWEST = 100  # pixels of the validation fold; with fewer, training windows say what is usual


def taught_series(windows: Windows, masks: NDArray[np.uint8], seed: int) -> KnownSeries:
    """As many pixels of every class as there are, up to OF_A_CLASS, from the masks that teach (n h w, 255 ignored); and
    HELD of the validation fold (its labelled pixels, or where it has no labels all that were seen). Nothing where no
    pixel teaches.
    """
    generator, indexes = np.random.default_rng([seed, 3]), windows.indexes("train")
    rows = np.asarray(masks)[windows.mask_row[indexes]]
    days = even_days(windows, indexes, EVERY)
    taught, classes = [np.zeros((0, len(days) * len(windows.card.legend.bands)), np.float32)], [np.zeros(0, np.uint8)]
    for k in np.unique(rows[rows != VOID]).tolist():
        there = generator.permutation(np.flatnonzero((rows == k).any(axis=(1, 2))))[:WINDOWS]
        taught.append(_drawn(windows, indexes[there], rows[there] == k, OF_A_CLASS, days, generator))
        classes.append(np.full(len(taught[-1]), k, np.uint8))
    held = _held_out(windows, rows, days, generator)
    whole = [_stored(part) for part in (np.concatenate(taught), held)]
    return KnownSeries(torch.from_numpy(days), whole[0], torch.from_numpy(np.concatenate(classes)), whole[1])


def _held_out(
    windows: Windows, rows: NDArray[np.uint8], days: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.float32]:
    """m f."""
    indexes, known = windows.indexes("validation"), np.asarray(windows.masks("validation")) != VOID
    known = known[windows.mask_row[indexes]]
    if not known.any():
        known = np.ones_like(known)
    if known.sum() < FEWEST:
        indexes, known = windows.indexes("train"), rows != VOID
    there = generator.permutation(np.flatnonzero(known.any(axis=(1, 2))))[: HELD // 10]
    return _drawn(windows, indexes[there], known[there], HELD, days, generator)


def _drawn(
    windows: Windows, indexes: NDArray[np.int64], wanted: NDArray[np.bool_], count: int, days: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.float32]:  # fmt: skip
    """p f: up to `count` of the pixels that are wanted (n h w of these windows) and were ever seen."""
    chosen = np.sort(generator.permutation(np.flatnonzero(wanted))[:count])
    window, pixel = np.divmod(chosen, windows.card.size**2)
    found = [np.zeros((0, len(days) * len(windows.card.legend.bands)), np.float32)]
    for row in np.unique(window):
        images, _, valid = windows.series(int(indexes[row]))
        seen = ((np.asarray(images) != NODATA).all(axis=1) & valid[:, None, None]).any(axis=0).ravel()
        here = pixel[window == row]
        flat = features(windows, indexes[row : row + 1], days)[0].reshape(windows.card.size**2, -1)
        found.append(flat[here[seen[here]]])
    return np.concatenate(found)


def _stored(series: NDArray[np.float32]) -> torch.Tensor:
    limits = np.iinfo(np.int16)
    return torch.from_numpy(np.rint(series).clip(limits.min, limits.max).astype(np.int16))
