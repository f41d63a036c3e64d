"""What a teacher is told of a window beside its images: where it lies, and of which year it is."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from pyproj import Transformer
from pyproj.exceptions import CRSError
from torch import Tensor

from cluemap.data.windows import UNLABELLED, Windows
from cluemap.errors import DataError

WGS84 = "EPSG:4326"
NO_SPREAD = 1e-9  # degrees: rounding errors alone


@lru_cache(maxsize=2)
def metadata_of(windows: Windows) -> Tensor:
    """float32 N 3: latitude and longitude of every window's centre and its year, in standard deviations from the mean
    of the training windows, labelled or not. What does not differ between these is 0, and so is an unknown year.

    Raises:
        DataError: a window's place is not known.
    """
    known = np.concatenate([places_of(windows), years_of(windows)[:, None]], axis=1)
    learned = known[np.concatenate([windows.indexes("train"), windows.indexes(UNLABELLED)])]
    held = np.isfinite(learned)
    count = np.maximum(held.sum(axis=0), 1)
    mean = np.where(held, learned, 0.0).sum(axis=0) / count
    spread = np.sqrt((np.where(held, learned - mean, 0.0) ** 2).sum(axis=0) / count)
    scaled = (known - mean) / np.where(spread > NO_SPREAD, spread, np.inf)
    return torch.from_numpy(np.where(np.isfinite(known), scaled, 0.0).astype(np.float32))


def years_of(windows: Windows) -> NDArray[np.float64]:
    """N: the year of every window's season, NaN where it is unknown, as in windows prepared by an older version."""
    if "year" not in windows.table:
        return np.full(len(windows), np.nan)
    return windows.table["year"].to_numpy(float, na_value=np.nan)


def places_of(windows: Windows) -> NDArray[np.float64]:
    """N 2: latitude and longitude (WGS 84, degrees) of every window's centre; raises as `metadata_of`."""
    table = windows.table
    half = table["pixel"].to_numpy(float) * windows.card.size / 2
    x, y = table["x"].to_numpy(float) + half, table["y"].to_numpy(float) - half
    crs = table["crs"].to_numpy(object)
    found = np.full((len(table), 2), np.nan)
    for one in {name for name in crs if isinstance(name, str)}:
        rows = crs == one
        try:
            longitude, latitude = Transformer.from_crs(one, WGS84, always_xy=True).transform(x[rows], y[rows])
        except CRSError:
            continue
        found[rows] = np.stack([latitude, longitude], axis=1)
    unknown = ~np.isfinite(found).all(axis=1)
    if unknown.any():
        raise DataError(
            f"{windows.folder} does not say where window {table['name'].iloc[np.flatnonzero(unknown)[0]]} lies (x, y, "
            "crs): set semisupervised.metadata: none"
        )
    return found
