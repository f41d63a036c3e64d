"""What a teacher is told of a window beside its images: where it lies."""

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
    """float32 N 2: latitude and longitude of every window's centre, in standard deviations from the mean place of the
    training windows, labelled or not. A coordinate in which these do not differ is 0.

    Raises:
        DataError: a window's place is not known.
    """
    places = places_of(windows)
    learned = places[np.concatenate([windows.indexes("train"), windows.indexes(UNLABELLED)])]
    spread = learned.std(axis=0)
    scaled = (places - learned.mean(axis=0)) / np.where(spread > NO_SPREAD, spread, np.inf)
    return torch.from_numpy(scaled.astype(np.float32))


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
