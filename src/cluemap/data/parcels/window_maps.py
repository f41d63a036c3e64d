"""Which parcel each pixel of a window belongs to."""

import numpy as np
from numpy.typing import NDArray

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.windows import Windows
from cluemap.errors import DataError


def parcel_maps(parcels: Parcels, windows: Windows, indexes: NDArray[np.int64]) -> NDArray[np.int32]:
    """n h w: row of the pixel's parcel in the table of parcels, counted from 1; 0 = no parcel.

    Raises:
        DataError: not one of these windows holds a parcel: windows and parcels are of other data.
    """
    size, found = windows.card.size, np.zeros((len(indexes), windows.card.size, windows.card.size), np.int32)
    by_patch: dict[str, list[int]] = {}
    for number, patch in enumerate(parcels.table["patch"]):
        by_patch.setdefault(patch, []).append(number)
    places = windows.table[["patch", "row", "column"]].iloc[indexes]
    known: tuple[str, NDArray, NDArray] = ("", np.zeros((0, 2), np.int32), np.zeros(0, np.int32))
    for out, (patch, row, column) in zip(found, places.itertuples(index=False), strict=True):
        if patch != known[0]:
            held = by_patch.get(patch, [])
            positions = [parcels.positions(number) for number in held]
            numbers = np.repeat(np.array(held, np.int32) + 1, parcels.pixels[held] if held else [])
            known = patch, np.concatenate([np.zeros((0, 2), np.int32), *positions]), numbers
        local = known[1] - (row, column)
        inside = ((local >= 0) & (local < size)).all(axis=1)
        out[tuple(local[inside].T)] = known[2][inside]
    if len(indexes) and not found.any():
        raise DataError(
            f"{parcels.folder} has no parcel in the windows of {windows.folder}: run `python src/prepare_parcels.py` "
            "and `dvc repro` on the same data"
        )
    return found
