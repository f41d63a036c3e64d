"""One parcel as a set of pixels, and how parcels are cut from a patch with a map of parcel numbers."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cluemap.data.patches import NODATA, VOID, Legend, Patch
from cluemap.data.series_features import season

GEOMETRY = ("perimeter", "pixels", "cover", "perimeter_per_area")  # of parcels that are cut from images


@dataclass(frozen=True, eq=False)
class Parcel:
    """A set of pixels over time. A pixel that was not seen on a date is NODATA in all bands."""

    name: str  # "<patch>_<number>", or the file's own id
    patch: str  # "" = none: the data set has parcels alone
    fold: int  # 1..5, -1: the data set gives splits
    split: str  # "train" | "validation" | "test"; "" = by fold
    crop: int  # id of the legend, VOID = not known
    pixels: NDArray[np.int16]  # s t c, reflectance times the legend's scale
    days: NDArray[np.int16]  # t, rising: 1 = 1 January of the year in which the data set begins
    geometry: NDArray[np.float32]  # g
    area: float  # square metres
    positions: NDArray[np.int32]  # s 2, row and column in the patch; -1 = none
    x: float  # map coordinates of the pixels' mean, NaN = none
    y: float
    crs: str | None
    cut: bool  # by the edge of the image or of a block of the split


@dataclass(frozen=True, eq=False)
class Found:
    """The parcels of one part of a data set, and how many were cut, left out, or have no label."""

    parcels: list[Parcel]
    counts: Counter[str] = field(default_factory=Counter)


class ParcelSource(Protocol):
    """A data set's parcels, part by part in a fixed order. `read` may be called from several threads at once."""

    @property
    def legend(self) -> Legend: ...
    @property
    def geometry(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def read(self, index: int) -> Found: ...


def cut_parcels(patch: Patch, numbers: NDArray, least: int) -> Found:
    """The parcels of a patch; `numbers` h w names each pixel's parcel, 0 = none.

    Left out and counted: "slivers" of fewer than `least` pixels, and parcels that were "never_seen". Kept and counted:
    parcels "cut" by the patch's edge, and those "unlabelled". A parcel's class is that of most of its pixels.
    """
    counts: Counter[str] = Counter()
    flat = numbers.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[flat[order] > 0]
    ids, first = np.unique(flat[order], return_index=True)
    series = patch.images.reshape(*patch.images.shape[:2], -1)
    edges, days, parcels = border_sides(numbers).ravel(), season(patch.days).astype(np.int16), []
    for number, places in zip(ids.tolist(), np.split(order, first[1:]) if len(ids) else [], strict=True):
        counts["read"] += 1
        pixels = np.ascontiguousarray(series[:, :, places].transpose(2, 0, 1))  # s t c
        if len(places) < least:
            counts["slivers"] += 1
        elif not (pixels != NODATA).all(axis=2).any():
            counts["never_seen"] += 1
        else:
            parcels.append(_parcel(patch, number, places, pixels, days, int(edges[places].sum())))
            counts["cut"] += parcels[-1].cut
            counts["unlabelled"] += parcels[-1].crop == VOID
    return Found(parcels, counts)


def geometry_of(rows: NDArray, columns: NDArray, edges: int, pixel: float) -> NDArray[np.float32]:
    """g: perimeter (metres, along the pixels' sides), pixels, their share of the bounding box, perimeter over area."""
    count, perimeter = len(rows), edges * pixel
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    return np.array([perimeter, count, count / box, perimeter / (count * pixel**2)], np.float32)


def _parcel(patch: Patch, number: int, places: NDArray, pixels: NDArray, days: NDArray, edges: int) -> Parcel:
    height, width = patch.labels.shape
    rows, columns = np.divmod(places, width)
    x, y = patch.corner or (np.nan, np.nan)
    cut = rows.min() == 0 or columns.min() == 0 or rows.max() == height - 1 or columns.max() == width - 1
    return Parcel(
        name=f"{patch.name}_{number}",
        patch=patch.name,
        fold=-1 if patch.fold is None else patch.fold,
        split=patch.split or "",
        crop=int(np.bincount(patch.labels.ravel()[places]).argmax()),
        pixels=pixels,
        days=days,
        geometry=geometry_of(rows, columns, edges, patch.pixel),
        area=len(places) * patch.pixel**2,
        positions=np.stack([rows + patch.offset[0], columns + patch.offset[1]], axis=1).astype(np.int32),
        x=x + patch.pixel * (float(columns.mean()) + 0.5),
        y=y - patch.pixel * (float(rows.mean()) + 0.5),
        crs=patch.crs,
        cut=bool(cut),
    )


def border_sides(numbers: NDArray) -> NDArray[np.int64]:
    """h w -> h w: how many of a pixel's four sides are a border of its parcel."""
    inner = np.pad(numbers, 1, constant_values=-1)
    sides = (inner[:-2, 1:-1], inner[2:, 1:-1], inner[1:-1, :-2], inner[1:-1, 2:])
    return np.sum([side != numbers for side in sides], axis=0, dtype=np.int64)
