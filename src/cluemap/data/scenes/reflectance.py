"""Whether the values of a scene can be reflectance at all, from samples of some dates."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluemap.data.patches import NODATA
from cluemap.data.scenes.imagery import STORED, Imagery
from cluemap.data.scenes.scene_file import NAME
from cluemap.errors import DataError

DATES, PIECES, SIDE = 4, 3, 32  # dates looked at, pieces along each side, pixels a side of a piece
WHOLE = 192  # pixels a side: a grid up to this size is looked at in one piece
DARK, BRIGHT = 0.02, 1.5  # reflectance: land has brighter spots than the first, and is not brighter than the second
SCALES = (1.0, 0.01, 0.001, 0.0001, 0.00001, 0.0000275)


def sampled(imagery: Imagery) -> list[NDArray[np.int16]]:
    """c arrays: values of each band that were seen, over some dates and places."""
    held: list[list[NDArray[np.int16]]] = [[] for _ in imagery.bands]
    for date in _dates(imagery):
        for rows, columns in places(imagery):
            for values, band in zip(held, imagery.read_date(date, rows, columns), strict=True):
                values.append(band[band != NODATA])
    return [np.concatenate(values) for values in held]


def check_level(imagery: Imagery, folder: Path) -> list[NDArray[np.int16]]:
    """The samples, once they can be reflectance.

    Raises:
        DataError: they are far too dark or too bright: the scale in scene.yaml is not that of the files.
    """
    samples = sampled(imagery)
    high, middle = _levels(samples)
    if not _possible(high, middle):
        found = "0 everywhere" if high == 0 else f"{middle:.4g} in the middle and {high:.4g} in the brightest 2 %"
        right = fitting_scale(imagery)
        hint = f" (by their values, {right:g} would do)" if right else ""
        raise DataError(
            f"the values in {folder / imagery.images.path} are no reflectance with this scale and offset: it would be "
            f"{found}, but land has about 0.02 to 0.6; set images.scale and images.offset in {NAME} to those of the "
            f"files{hint}"
        )
    return samples


def is_reflectance(imagery: Imagery) -> bool:
    """Whether the samples can be reflectance."""
    return _possible(*_levels(sampled(imagery)))


def fitting_scale(imagery: Imagery) -> float | None:
    """The usual scale with which the files' values would be reflectance, if there is one."""
    parts = [imagery.read_stored(date, *place) for date in _dates(imagery) for place in places(imagery)]
    values = np.concatenate(parts)
    high = float(np.percentile(values, 98)) if values.size else 0.0
    return next((scale for scale in SCALES if 0.08 < high * scale < 1.2), None)


def _levels(samples: list[NDArray[np.int16]]) -> tuple[float, float]:
    """Reflectance of the brightest 2 % and in the middle; NaN where nothing was seen."""
    values = np.concatenate(samples) if samples else np.zeros(0)
    if not values.size:
        return np.nan, np.nan
    return float(np.percentile(values, 98)) / STORED, float(np.median(values)) / STORED


def _possible(high: float, middle: float) -> bool:
    return not (high < DARK or middle > BRIGHT)


def places(imagery: Imagery) -> list[tuple[slice, slice]]:
    """Rows and columns of pieces spread over the grid; all of a small one."""
    height, width = imagery.grid.height, imagery.grid.width
    if max(height, width) <= WHOLE:
        return [(slice(0, height), slice(0, width))]

    def starts(length: int) -> list[int]:
        inner = np.linspace(0, max(0, length - SIDE), PIECES + 2)[1:-1] if length > SIDE else [0]
        return sorted({int(start) for start in inner})

    return [
        (slice(row, min(row + SIDE, height)), slice(column, min(column + SIDE, width)))
        for row in starts(height)
        for column in starts(width)
    ]


def _dates(imagery: Imagery) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, len(imagery.dates) - 1, DATES)})
