"""Labels of parcels from image labels: what the masks or CAMs of the windows say inside a parcel, under their labels.

A window's label holds every class that covers more than a small share of it. So a parcel that covers more than that
share can only be of a class of the label, and of a parcel in many windows only the classes that all of them hold are
left. Among these the masks' pixels (or the mean CAM) decide. No truth is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import VOID
from cluemap.data.windows import Windows
from cluemap.errors import DataError


@dataclass(frozen=True, eq=False)
class Votes:
    """What was found of each parcel (N; rows of parcels that were not asked about are empty)."""

    crop: NDArray[np.uint8]  # VOID = no class
    share: NDArray[np.float32]  # of the votes that the class got
    allowed: NDArray[np.int64]  # how many classes the image labels left


def windows_by_patch(windows: Windows, split: str) -> dict[str, list[tuple[int, int, int]]]:
    """Patch -> (window, row, column) of its windows in a split."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    columns = (windows.table[name].to_numpy() for name in ("patch", "row", "column"))
    patches, rows, firsts = columns
    for index in windows.indexes(split).tolist():
        found.setdefault(str(patches[index]), []).append((index, int(rows[index]), int(firsts[index])))
    return found


def parts_of(
    positions: NDArray[np.int32], places: list[tuple[int, int, int]], size: int
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Every window that holds pixels of a parcel, and where in the window they lie (m 2)."""
    for index, row, column in places:
        local = positions - (row, column)
        inside = ((local >= 0) & (local < size)).all(axis=1)
        if inside.any():
            yield index, local[inside]


def vote(
    parcels: Parcels,
    indexes: NDArray[np.int64],
    windows: Windows,
    maps: NDArray,
    presence: float,
    least: float,
    background_below: float | None = None,
) -> Votes:
    """The class of each of `indexes`. `maps` are of the training windows: masks (n h w, ids, 255 = none), or CAMs
    (n k i j) with `background_below`, the mean under which a parcel is background where that is a class of parcels.

    A class needs the share `least` of the votes; where the labels leave a single one it needs none.
    """
    found = Votes(
        np.full(len(parcels), VOID, np.uint8), np.zeros(len(parcels), np.float32), np.zeros(len(parcels), np.int64)
    )
    places, background = windows_by_patch(windows, "train"), parcels.card.background
    patches, size = parcels.table["patch"].to_numpy(), windows.card.size
    for index in indexes.tolist():
        parts = list(parts_of(parcels.positions(index), places.get(patches[index], []), size))
        may = allowed_of(parts, windows, presence)
        if may is None:
            continue
        may = np.concatenate([[background], may])
        votes = np.zeros(len(may))
        pixels = sum(len(local) for _, local in parts)
        for window, local in parts:
            votes += _votes(maps[windows.mask_row[window]], local, size, len(may))
        if background_below is not None and background:
            votes[0] = background_below * pixels
        votes[~may] = 0
        found.allowed[index] = may.sum()
        if may.sum() == 1:
            found.crop[index], found.share[index] = may.argmax(), 1.0
        elif votes.sum() > 0 and votes.max() >= least * votes.sum():
            found.crop[index], found.share[index] = votes.argmax(), votes.max() / votes.sum()
    return found


def candidates(parcels: Parcels, indexes: NDArray[np.int64], windows: Windows, presence: float) -> NDArray[np.bool_]:
    """N k: the classes that the labels of the training windows leave to each of `indexes`; all or none of them where
    nothing is known.
    """
    found = np.zeros((len(parcels), len(parcels.card.names)), bool)
    places, patches = windows_by_patch(windows, "train"), parcels.table["patch"].to_numpy()
    for index in indexes.tolist():
        parts = list(parts_of(parcels.positions(index), places.get(patches[index], []), windows.card.size))
        may = allowed_of(parts, windows, presence)
        if may is not None:
            found[index] = np.concatenate([np.ones(int(parcels.card.background), bool), may])
    return found


def allowed_of(parts: list[tuple[int, NDArray[np.int32]]], windows: Windows, presence: float) -> NDArray | None:
    """k: the classes that all labels hold (or do not tell of) of windows in which the parcel is large enough to be in
    the label; None: it is in none of them.
    """
    enough = [index for index, local in parts if len(local) > presence * windows.card.size**2]
    return np.asarray(windows.possible[enough].all(axis=0)) if enough else None


def check_same_split(parcels: Parcels, splits: NDArray[np.object_], windows: Windows) -> None:
    """Raises DataError: a patch is in one split as windows and in another as parcels (another `windows.fold`)."""
    of_windows = dict(zip(windows.table["patch"].astype(str), windows.table["split"], strict=True))
    for patch, split in zip(parcels.table["patch"], splits, strict=True):
        if of_windows.get(patch, split) != split:
            raise DataError(
                f"patch {patch} is in the {of_windows[patch]} split as windows and in {split} as parcels: prepare both "
                "with the same windows.fold"
            )


def _votes(window: NDArray, local: NDArray[np.int32], size: int, ids: int) -> NDArray:
    """One window's mask (h w) or CAM (k i j), pixels m 2 -> votes of each id."""
    rows, columns = local.T
    if window.ndim == 2:
        said = np.asarray(window[rows, columns])
        return np.bincount(said[said != VOID], minlength=ids).astype(np.float64)
    side = window.shape[1]
    lit = np.asarray(window[:, rows * side // size, columns * side // size], np.float64)
    return np.concatenate([[0.0], lit.sum(axis=1)])
