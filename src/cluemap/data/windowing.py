"""Patches cut into windows, and which dates of a window networks are shown."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluemap.data.image_labels import certain_classes, known_labels, split_of, stays_unlabelled
from cluemap.data.patches import NODATA, Legend, Patch
from cluemap.errors import DataError
from cluemap.params import WindowParams


@dataclass(frozen=True)
class DateChoice:
    """Which dates of a window are kept: the same for training windows and for those of a map."""

    most: int  # longer series are thinned
    clear: float = 0.0  # share of the window's pixels that have to be clear; 0: all dates are kept
    bright: float = 0.0  # stored value of the blue band from which a pixel is not clear
    least: int = 1  # dates that are kept however few are clear
    blue: int = 0  # which band

    def kept(self, images: NDArray[np.int16], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
        """t c h w, t (whether a date has data) -> positions of the dates kept, rising; never none where one is valid.

        Clouds and snow are bright in blue, where land is dark; what an SCL hides has no data. The images may be a
        part of what `valid` was taken from.
        """
        if not self.clear:
            return thinned(valid, self.most)
        shares = clear_shares(images[:, self.blue], self.bright)
        clearest = np.argsort(-shares, kind="stable")
        clearest = clearest[valid[clearest]]
        count = max(int((shares[clearest] >= self.clear).sum()), self.least)
        seen = np.sort(clearest[:count])
        return seen[thinned(np.ones(len(seen), bool), self.most)]


def date_choice(params: WindowParams, legend: Legend) -> DateChoice:
    bright = params.bright * legend.reflectance_scale
    return DateChoice(params.max_dates, params.clear, bright, params.least_dates, legend.true_colour[2])


def clear_shares(blue: NDArray[np.int16], bright: float) -> NDArray[np.float64]:
    """t h w -> t: the share of a date's pixels that have data and are darker than `bright`."""
    return np.asarray(((blue != NODATA) & (blue < bright)).mean(axis=(1, 2)))


@dataclass(frozen=True, eq=False)
class CutWindow:
    """One window, ready to be written."""

    name: str  # "<patch>_<j>"
    patch: str
    fold: int  # -1: the data set gives splits, not folds
    split: str
    tile: str
    row: int  # pixels within the patch, of the upper-left corner
    column: int
    x: float  # map coordinates of the upper-left corner, NaN if unknown
    y: float
    crs: str | None
    pixel: float  # metres
    year: int | None  # of the season, None if unknown
    images: NDArray[np.int16]  # t c h w
    days: NDArray[np.int16]  # t
    valid: NDArray[np.bool_]  # t, false where the date has no data in the whole window
    mask: NDArray[np.uint8]  # h w
    labels: NDArray[np.bool_] | None = None  # k, the image label; None: it follows from the mask
    known: NDArray[np.bool_] | None = None  # k, whether a class is known to be there or not; None: all are


def starts(length: int, size: int, stride: int, flush_edge: bool) -> list[int]:
    """First pixels of the windows along one side of `length` pixels; `flush_edge` adds one that ends with the side."""
    regular = list(range(0, length - size + 1, stride))
    ends_early = not regular or regular[-1] + size < length
    return [*regular, length - size] if flush_edge and ends_early and length >= size else regular


def thinned(valid: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
    """valid t -> positions of the dates kept, rising. A series of up to `most` dates is kept whole. Of a longer one,
    dates without data go first; if that is not enough, the rest is spaced evenly, the first and the last kept."""
    if len(valid) <= most:
        return np.arange(len(valid))
    seen = np.flatnonzero(valid)
    if len(seen) <= most:
        return seen
    if most == 1:
        return seen[[len(seen) // 2]]
    gaps = most - 1  # rounded in whole numbers, so that every machine keeps the same dates
    return seen[(np.arange(most) * (len(seen) - 1) + gaps // 2) // gaps]


def cut(patch: Patch, params: WindowParams, legend: Legend | None = None) -> list[CutWindow]:
    """The windows of a patch, row by row; of a patch with `knowledge` only those that were seen and have a label.
    Without a legend all dates are kept, up to windows.max_dates.

    Raises:
        DataError: the patch is smaller than a window, or one of its windows was never seen.
    """
    sides = [starts(side, params.size, params.stride, params.flush_edge) for side in patch.labels.shape]
    if not all(sides):
        raise DataError(
            f"{patch.source}: patch {patch.name} has {patch.labels.shape} pixels, less than a window: "
            f"set windows.size (now {params.size}) to at most {min(patch.labels.shape)}"
        )
    choice = DateChoice(params.max_dates) if legend is None else date_choice(params, legend)
    places = enumerate((row, column) for row in sides[0] for column in sides[1])
    windows = (_window(patch, patch.first_window + j, *place, params, choice) for j, place in places)
    return [window for window in windows if window is not None]


def _window(
    patch: Patch, number: int, row: int, column: int, params: WindowParams, choice: DateChoice
) -> CutWindow | None:
    rows, columns = slice(row, row + params.size), slice(column, column + params.size)
    images = patch.images[:, :, rows, columns]
    valid = (images != NODATA).any(axis=(1, 2, 3))
    name, labels, known = f"{patch.name}_{number}", None, None
    split = patch.split or split_of(patch.fold or 1, params.fold)
    if patch.knowledge is not None:
        labels = known_labels(patch.labels, patch.knowledge, rows, columns, params.presence)
        if not valid.any():
            return None
        if labels is not None:
            known = certain_classes(labels, patch.labels, patch.knowledge, rows, columns)
        elif split == "train" and stays_unlabelled(patch.knowledge, rows, columns):
            labels = known = np.zeros(patch.knowledge.classes, bool)
        else:
            return None
    if not valid.any():
        raise DataError(
            f"{patch.source}: window {name} has no data on any of its {len(valid)} dates: take patch {patch.name} "
            "out of the data set (its metadata or fold files), or fetch it again"
        )
    kept = choice.kept(images, valid)
    x, y = patch.corner or (np.nan, np.nan)
    return CutWindow(
        name=name,
        patch=patch.name,
        fold=-1 if patch.fold is None else patch.fold,
        split=split,
        tile=patch.tile,
        row=patch.offset[0] + row,
        column=patch.offset[1] + column,
        x=x + patch.pixel * column,
        y=y - patch.pixel * row,
        crs=patch.crs,
        pixel=patch.pixel,
        year=patch.year,
        images=np.ascontiguousarray(images[kept]),
        days=patch.days[kept],
        valid=valid[kept],
        mask=np.ascontiguousarray(patch.labels[rows, columns]),
        labels=labels,
        known=known,
    )
