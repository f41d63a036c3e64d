"""Several images of one tile and date: parts are joined, of a repeated one the newest version is taken."""

from itertools import groupby
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import from_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from cluemap.data.scenes.sources.granules import Granule, Layer
from cluemap.errors import DataError

SAMPLES = 64  # pixels a side at which two images are compared
SAME = 0.5  # share of the smaller image's pixels that the other has too: above it, they are no parts of one


def joined(granules: list[Granule], home: Path, notes: list[str]) -> list[Granule]:
    """By date, then tile. Of each group those that fill each other, the newest version first; what was left out goes
    to `notes`.

    Raises:
        DataError: two images of the same land and date of which nothing says which one is newer.
    """
    order = sorted(granules, key=lambda one: (one.day, one.tile, one.sensing, *_newest_first(one)))
    kept: list[Granule] = []
    for _, same in groupby(order, key=lambda one: (one.day, one.tile, one.sensing)):
        parts: list[Granule] = []
        for granule in same:
            twin = next((part for part in parts if _cover_the_same(part, granule)), None)
            if twin is None:
                parts.append(granule)
            elif twin.version == granule.version:
                raise DataError(
                    f"the date {granule.day} comes twice: {twin.name} and {granule.name} show the same land; take one "
                    f"of them out of {home}"
                )
            else:
                notes.append(
                    f"{granule.day}: of two versions of one image {twin.name.name} is taken (processing baseline "
                    f"{_baseline(twin)}), {granule.name.name} ({_baseline(granule)}) is left out"
                )
        kept += parts
    return kept


def _newest_first(granule: Granule) -> tuple[int, tuple[int, ...]]:
    baseline, made = granule.version
    return -baseline, tuple(-ord(letter) for letter in made)


def _baseline(granule: Granule) -> str:
    number = granule.version[0]
    return f"{number // 100:02d}.{number % 100:02d}" if number >= 0 else "unknown"


def _cover_the_same(one: Granule, other: Granule) -> bool:
    """Whether the two saw mostly the same land: looked up in a band of both, at few samples."""
    band = next((band for band in one.bands if band in other.bands), None)
    if band is None:
        return True
    first, second = one.bands[band], other.bands[band]
    try:
        with rasterio.open(first.source) as file:
            crs, bounds = file.crs, np.array(file.bounds)
        with rasterio.open(second.source) as file:
            if crs is None or file.crs is None:
                return True
            more = np.array(transform_bounds(file.crs, crs, *file.bounds))
        box = (*np.minimum(bounds[:2], more[:2]), *np.maximum(bounds[2:], more[2:]))
        seen, too = (_seen(layer, crs, box) for layer in (first, second))
    except (RasterioError, OSError, ValueError) as error:
        raise DataError(f"{other.name} cannot be compared with {one.name} ({error}): fetch them again") from None
    return bool((seen & too).sum() > SAME * min(seen.sum(), too.sum()))


def _seen(layer: Layer, crs: CRS, box: tuple[float, ...]) -> NDArray[np.bool_]:
    """SAMPLES x SAMPLES over `box`: whether there is data."""
    with rasterio.open(layer.source) as file:
        own = file.nodata if layer.nodata is None else layer.nodata
        empty = 0.0 if own is None else float(own)
        with WarpedVRT(
            file, crs=crs, transform=from_bounds(*box, SAMPLES, SAMPLES), width=SAMPLES, height=SAMPLES,
            resampling=Resampling.nearest, src_nodata=empty, nodata=empty,
        ) as view:  # fmt: skip
            values = view.read(layer.number)
    return np.asarray((values != empty) & ~np.isnan(values.astype(np.float64)))
