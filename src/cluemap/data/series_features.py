"""Series as features of a fixed length: every pixel's bands at even days, for learners that know no dates."""

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from cluemap.data.patches import NODATA
from cluemap.data.windows import Windows

YEAR = 365
EVERY = 15  # days between two places of an even series
KEPT = 2**30  # bytes of features that are kept in memory; beyond that they are made again each time
NEAR = 15.0  # days over which a date's weight falls by e, in features of clear dates
HAZE = 0.04  # reflectance in blue above a pixel's darkest date over which a date's weight falls by e


def season(days: NDArray) -> NDArray[np.int64]:
    """Days of year t in the order of the series -> days t counted on over the turn of the year."""
    days = np.asarray(days, np.int64)
    return days + YEAR * np.concatenate([[0], np.cumsum(np.diff(days) < 0)])


def years_apart(dates: NDArray[np.int64], days: NDArray[np.int64]) -> int:
    """Whole years from the middle of a series' dates t to that of days g (both rising).

    `season` begins with the year of a window's first date: land that is first seen after New Year counts from another
    year than land seen from autumn on.
    """
    middles = (dates[0] + dates[-1]) / 2, (days[0] + days[-1]) / 2
    return int(np.round((middles[1] - middles[0]) / YEAR))


def median_span(spans: NDArray[np.int64]) -> tuple[float, float]:
    """First and last day of series n 2 -> their medians, with every series moved to the year of the first one."""
    first, last = np.median([span + YEAR * years_apart(span, spans[0]) for span in spans], axis=0)
    return float(first), float(last)


class SeriesFeatures:
    """Features of any windows of a data set: the bands at every 15th day, the days taken from the training windows."""

    def __init__(self, windows: Windows):
        self.windows = windows
        self.days = even_days(windows, windows.indexes("train"), EVERY)
        self.count = len(self.days) * len(windows.card.legend.bands)
        self._kept: dict[int, NDArray[np.float32]] = {}
        self._room = KEPT // (4 * self.count * windows.card.size**2)  # windows

    def __call__(self, indexes: NDArray[np.int64]) -> NDArray[np.float32]:
        """-> n h w f."""
        missing = np.array([index for index in indexes.tolist() if index not in self._kept], np.int64)
        if len(self._kept) + len(missing) > self._room:
            return features(self.windows, indexes, self.days)
        if len(missing):
            self._kept.update(zip(missing.tolist(), features(self.windows, missing, self.days), strict=True))
        return np.stack([self._kept[index] for index in indexes.tolist()])


def even_days(windows: Windows, indexes: NDArray[np.int64], every: int) -> NDArray[np.int64]:
    """g: every `every`-th day from the median first to the median last date of these windows, in the first's year."""
    first, last = median_span(np.stack([season(windows.series(int(index))[1])[[0, -1]] for index in indexes]))
    return np.arange(first, last + every, every).astype(np.int64)


def features(windows: Windows, indexes: NDArray[np.int64], days: NDArray[np.int64]) -> NDArray[np.float32]:
    """-> n h w f: bands at `days` (f = g c), interpolated linearly over the dates with data; 0 without any."""
    size, bands = windows.card.size, len(windows.card.legend.bands)
    out = np.zeros((len(indexes), size, size, len(days) * bands), np.float32)
    for row, index in zip(out, indexes, strict=True):
        series, seen, counted = _pixels(windows, int(index), days)
        patterns, which = np.unique(seen, axis=0, return_inverse=True)
        flat = row.reshape(size * size, -1)
        for number, pattern in enumerate(patterns):
            if pattern.any():
                pixels = which.reshape(-1) == number
                share = shares(counted[pattern], days)  # g t
                flat[pixels] = rearrange(share @ series[pixels][:, pattern], "p g c -> p (g c)")
    return out


def clear_features(windows: Windows, indexes: NDArray[np.int64], days: NDArray[np.int64]) -> NDArray[np.float32]:
    """-> n h w f: bands at `days` (f = g c), means over the dates with data; 0 without any.

    A date's weight is exp(-|its day - day| / NEAR - (its blue - darkest blue of the pixel) / HAZE): clouds, haze and
    snow are bright in blue, and a series is dark where it shows land. No cloud mask and no label is asked for.
    """
    size, bands, legend = windows.card.size, len(windows.card.legend.bands), windows.card.legend
    blue, haze = legend.true_colour[2], HAZE * legend.reflectance_scale
    out = np.zeros((len(indexes), size, size, len(days) * bands), np.float32)
    for row, index in zip(out, indexes, strict=True):
        series, seen, counted = _pixels(windows, int(index), days)
        bright = np.where(seen, series[:, :, blue], np.inf)  # p t
        darkest = bright.min(axis=1, keepdims=True)
        here = np.isfinite(darkest[:, 0])
        away = (bright[here] - darkest[here]) / haze  # p t
        apart = np.abs(days[:, None] - counted) / NEAR  # g t
        cost = away[:, None] + apart[None]  # p g t
        weight = np.exp(cost.min(axis=2, keepdims=True) - cost)
        mean = (weight / weight.sum(axis=2, keepdims=True)).astype(np.float32) @ series[here]
        row.reshape(size * size, -1)[here] = rearrange(mean, "p g c -> p (g c)")
    return out


def _pixels(
    windows: Windows, index: int, days: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Of a window's pixels p = h w: series p t c, whether a date has data p t, the dates t in the year of `days`."""
    images, dates, valid = windows.series(index)
    series = rearrange(np.asarray(images), "t c h w -> (h w) t c").astype(np.float32)
    seen = (series != NODATA).all(axis=2) & valid
    counted = season(dates)
    if valid.any():
        counted = counted + YEAR * years_apart(counted[valid], days)
    return series, seen, counted


def shares(dates: NDArray, days: NDArray) -> NDArray[np.float32]:
    """Dates t in order, days g -> g t: by which share each date counts at each day; ends are held."""
    return np.stack([np.interp(days, dates, unit) for unit in np.eye(len(dates))], axis=1).astype(np.float32)
