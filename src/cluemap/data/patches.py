"""What every reader gives: checked patches, and the legend that says what their numbers mean."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cluemap.errors import DataError

NODATA = -10000  # reflectance of a pixel that was not seen
VOID = 255  # label of a pixel that nothing is known of; ignored in every score
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class CropClass:
    name: str
    colour: str  # "#rrggbb"


@dataclass(frozen=True)
class Legend:
    """What a data set is made of. Label ids: 0 background (where there is one), 1..K `classes`, 255 VOID."""

    bands: tuple[str, ...]
    true_colour: tuple[int, int, int]  # band indexes of red, green, blue
    classes: tuple[CropClass, ...]  # the K crops, in the order of their ids 1..K
    background: bool  # True: id 0 is a background class
    reflectance_scale: float = 10000.0  # stored value of reflectance 1
    background_colour: str = "#000000"
    void_colour: str = "#ffffff"

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(crop.name for crop in self.classes)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Legend":
        return cls(
            **{
                **content,
                "bands": tuple(content["bands"]),
                "true_colour": tuple(content["true_colour"]),
                "classes": tuple(CropClass(**crop) for crop in content["classes"]),
            }
        )


@dataclass(frozen=True, eq=False)
class Knowledge:
    """How the windows of a user's own land get their image labels. Windows about which nothing is known (but see
    `keep`), and windows that were never seen, are left out."""

    classes: int  # K of the legend
    presence: float | None = None  # share of the window above which a class is present; None: windows.presence
    areas: NDArray[np.int32] | None = None  # h w, the area each pixel lies in (row of `crops`), -1 = none
    crops: NDArray[np.bool_] | None = None  # a k, the crops each area is said to have
    cover: float = 0.5  # a window takes the crops of every area that covers at least this share of it
    silence: str = "absent"  # absent | unknown: a class that labels do not name, where not all of the land has one
    hidden: NDArray[np.uint8] | None = None  # h w, ids of fields that another split's windows show; VOID elsewhere
    keep: bool = False  # training windows about which nothing is known stay, as unlabelled ones


@dataclass(frozen=True, eq=False)
class Patch:
    """One published patch, tile or pickle, decoded. Readers pass it through `checked` before they hand it out."""

    name: str
    fold: int | None  # 1..5; exactly one of fold and split is given
    split: str | None  # "train" | "validation" | "test"
    tile: str
    images: NDArray[np.int16]  # t c h w, reflectance times the legend's scale, NODATA where not seen
    days: NDArray[np.int16]  # t, day of year 1..366, in acquisition order
    labels: NDArray[np.uint8]  # h w, ids of the legend
    corner: tuple[float, float] | None  # map coordinates x, y of the upper-left corner
    crs: str | None  # "EPSG:32630"
    pixel: float  # metres a pixel
    source: Path  # the file that errors name
    first_window: int = 0  # number of its first window within the named patch (PASTIS24: j)
    offset: tuple[int, int] = (0, 0)  # row, column of its upper-left pixel within the named patch (PASTIS24: from j)
    year: int | None = None  # of the season: that of the middle date, or the data set's own
    knowledge: Knowledge | None = None  # None: `labels` hold all there is to know, and every window is wanted


class Reader(Protocol):
    """A published data set: patches in a fixed order. `read` may be called from several threads at once."""

    @property
    def legend(self) -> Legend: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Patch]: ...
    def read(self, index: int) -> Patch: ...


def checked(patch: Patch, legend: Legend) -> Patch:
    """The same patch, once everything that later stages rely on has been seen to hold.

    Raises:
        DataError: wrong dtype, shape, day, label or fold, NaN, or not one pixel that was seen. Names the file.
    """
    _check_images(patch, legend)
    _check_days(patch)
    _check_labels(patch, legend)
    _check_place(patch)
    return patch


def _check_images(patch: Patch, legend: Legend) -> None:
    images, source = patch.images, patch.source
    if images.dtype != np.int16:
        unknown = int(np.isnan(images).sum()) if images.dtype.kind == "f" else 0
        nan = f" with {unknown} NaN values" if unknown else ""
        raise DataError(
            f"{source}: images are {images.dtype}{nan}, not int16: fetch the published file again, or convert to "
            f"int16 (reflectance x {legend.reflectance_scale:.0f}, {NODATA} where there is no data)"
        )
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(f"{source}: images have shape {images.shape}, not (dates, bands, rows, columns): fetch again")
    if images.shape[1] != len(legend.bands):
        raise DataError(
            f"{source}: images have {images.shape[1]} bands, not the {len(legend.bands)} of this data set "
            f"({' '.join(legend.bands)}): fetch the published file again"
        )
    if patch.knowledge is None and not any((date != NODATA).any() for date in images):
        raise DataError(
            f"{source}: no pixel of patch {patch.name} was ever seen (all {images.shape[0]} dates are {NODATA}): "
            "fetch it again, or take the patch out of the data set"
        )


def _check_days(patch: Patch) -> None:
    days, source = patch.days, patch.source
    if days.ndim != 1 or len(days) != len(patch.images):
        raise DataError(
            f"{source}: {len(patch.images)} dates of images but {days.size} days for patch {patch.name}: "
            "images and dates are not of the same release, fetch both again"
        )
    if days.dtype != np.int16:
        raise DataError(f"{source}: days of patch {patch.name} are {days.dtype}, not int16")
    wrong = days[(days < 1) | (days > 366)]
    if wrong.size:
        raise DataError(f"{source}: day {wrong[0]} of patch {patch.name} is no day of the year 1..366: mend the dates")


def _check_labels(patch: Patch, legend: Legend) -> None:
    labels, source = patch.labels, patch.source
    if labels.dtype != np.uint8 or labels.shape != patch.images.shape[2:]:
        raise DataError(
            f"{source}: labels of patch {patch.name} are {labels.dtype} {labels.shape}, "
            f"not uint8 {patch.images.shape[2:]} like its images: fetch both files again"
        )
    lowest = 0 if legend.background else 1
    used = np.unique(labels)
    wrong = used[(used != VOID) & ((used < lowest) | (used > len(legend.classes)))]
    if wrong.size:
        raise DataError(
            f"{source}: label {wrong[0]} of patch {patch.name} is neither {lowest}..{len(legend.classes)} nor {VOID}"
        )


def _check_place(patch: Patch) -> None:
    what = f"{patch.source}: patch {patch.name}"
    if (patch.fold is None) == (patch.split is None):
        raise DataError(f"{what} needs either a fold or a split, found {patch.fold} and {patch.split}")
    if patch.fold is not None and patch.fold not in range(1, 6):
        raise DataError(f"{what} is in fold {patch.fold!r}, not 1 to 5: mend the folds")
    if patch.split is not None and patch.split not in SPLITS:
        raise DataError(f"{what} is in split {patch.split!r}, not one of {SPLITS}: mend the splits")
