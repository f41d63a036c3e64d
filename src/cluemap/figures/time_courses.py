"""Courses over the year, class by class: arrays only, `temporal_weights` draws them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cluemap.data.patches import NODATA, Legend
from cluemap.errors import DataError

BIN_DAYS = 10  # days that one part of the year holds; the last part is shorter


def even_share_weights(
    weights: NDArray[np.floating], days: NDArray[np.integer], present: NDArray[np.bool_], bin_days: int = BIN_DAYS
) -> NDArray[np.float64]:
    """b k t, b t (0 = no date), b k -> k y: mean weight of a date in each part of the year; 1 = an even share.

    A window's weights sum to 1 over its dates, so a window with many dates gives each one little: a weight times the
    window's number of dates can be compared between windows. Only windows that hold a class speak for it. NaN where
    no date of such a window lies.
    """
    windows, _, dates = weights.shape
    parts = -(-366 // bin_days)
    real = days > 0
    relative = weights * real.sum(axis=1)[:, None, None]
    part = np.where(real, (days - 1) // bin_days, parts)  # b t; padding goes to a part that is cut off
    total = np.zeros((weights.shape[1], parts + 1))
    count = np.zeros_like(total)
    for window, date in np.ndindex(windows, dates):
        total[:, part[window, date]] += np.where(present[window], relative[window, :, date], 0)
        count[:, part[window, date]] += present[window]
    with np.errstate(invalid="ignore"):
        return (total / np.where(count, count, np.nan))[:, :parts]


def ndvi_course(
    series: Iterable[tuple[NDArray[np.int16], NDArray[np.integer], NDArray[np.integer]]],
    legend: Legend,
    bin_days: int = BIN_DAYS,
) -> NDArray[np.float64]:
    """(images t c h w, days t, labels h w) per window -> k y: greenness of each class in each part of the year.

    NDVI = (near infrared - red) / (near infrared + red), mean over a window's pixels of the class, then the median
    over windows and dates, which a few clouds do not move. NaN where nothing was seen.

    Raises:
        DataError: the legend has no band B08.
    """
    if "B08" not in legend.bands:
        raise DataError(f"no near infrared band B08 among {' '.join(legend.bands)}: draw the weights without NDVI")
    crops, parts = len(legend.classes), -(-366 // bin_days)
    found: list[list[list[float]]] = [[[] for _ in range(parts)] for _ in range(crops)]
    for images, days, labels in series:
        near, red = (images[:, band].astype(float) for band in (legend.bands.index("B08"), legend.true_colour[0]))
        seen = (images != NODATA).all(axis=1) & (near + red > 0)
        ndvi = np.where(seen, (near - red) / np.where(seen, near + red, 1), np.nan)  # t h w
        for label in range(1, crops + 1):
            for date in np.flatnonzero((seen & (labels == label)).any(axis=(1, 2)) & (days > 0)):
                found[label - 1][(days[date] - 1) // bin_days].append(float(np.nanmean(ndvi[date, labels == label])))
    return np.array([[np.median(values) if values else np.nan for values in course] for course in found])
