"""One band of one file, seen on the scene's lattice and read piece by piece; safe to use from several threads."""

import contextlib
import os
import resource
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from cluemap.data.scenes.grid import Grid, window_of
from cluemap.data.scenes.sources.granules import SCALE, Layer
from cluemap.errors import DataError

os.environ.setdefault("GDAL_CACHEMAX", "512")  # MB of decoded tiles, over all files
os.environ.setdefault("GDAL_HTTP_TIMEOUT", "30")  # seconds: a server that is silent is an error, not a hang
os.environ.setdefault("GDAL_HTTP_MAX_RETRY", "2")
FAILURES = (RasterioError, OSError, ValueError, ArithmeticError, MemoryError, CPLE_BaseError)  # of GDAL, by rasterio
MOST_IN_BLOCK = 150_000_000  # pixels that are decoded at once: more than an untiled Sentinel-2 image has
MOST_PIXELS = 60_000  # a side: more is no image of one place, but a damaged header


class Look(NamedTuple):
    """What a file says of a layer."""

    crs: CRS
    bounds: tuple[float, float, float, float]
    pixel: float  # width of a pixel, in units of the CRS
    native: Grid | None  # None where pixels are no squares along the axes
    scale: float
    offset: float
    dtype: str
    block: tuple[int, int] = (1, 1)  # rows and columns that are decoded at once


class Raster:
    """A layer brought to `grid`'s lattice: as it is where it lies on it, else resampled while reading."""

    def __init__(self, layer: Layer, grid: Grid, place: Grid, resampling: Resampling):
        self.layer, self.grid, self.place, self.resampling = layer, grid, place, resampling
        self._lock = Lock()
        self._file: Any = None
        self._view: Any = None

    def read(self, rows: slice, columns: slice) -> tuple[NDArray, NDArray[np.bool_]]:
        """h w values as stored, and which of them were seen; rows and columns of the grid.

        Raises:
            DataError: the file is missing or damaged.
        """
        row, column = self.grid.offset(self.place)
        mine = slice(max(rows.start - row, 0), min(rows.stop - row, self.place.height))
        across = slice(max(columns.start - column, 0), min(columns.stop - column, self.place.width))
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        if mine.start >= mine.stop or across.start >= across.stop:
            return np.zeros(shape, np.int16), np.zeros(shape, bool)
        with self._lock:
            try:
                view, nodata = self._opened()
                found = view.read(self.layer.number, window=window_of(mine, across))
            except FAILURES as error:
                raise damaged(self.layer, error) from None
        known = found != nodata
        if found.dtype.kind == "f":
            known &= np.isfinite(found)
        if found.shape == shape:
            return found, known
        values, seen = np.zeros(shape, found.dtype), np.zeros(shape, bool)
        inside = np.s_[mine.start + row - rows.start : mine.stop + row - rows.start,
                       across.start + column - columns.start : across.stop + column - columns.start]  # fmt: skip
        values[inside], seen[inside] = found, known
        return values, seen

    def _opened(self) -> tuple[Any, float]:
        """The file (or its resampled view), opened at first use and kept: closing it would drop its decoded tiles."""
        if self._file is None:
            _allow_many_files()
            self._file = rasterio.open(self.layer.source)
        nodata = self.layer.nodata if self.layer.nodata is not None else self._file.nodata
        nodata = 0.0 if nodata is None else float(nodata)
        if self._view is None:
            own = _native(self._file)
            same = own is not None and self.place.aligned(own) and self.place.offset(own) == (0, 0)
            inside = same and own.height >= self.place.height and own.width >= self.place.width  # type: ignore[union-attr]
            self._view = self._file if inside else self._warped(nodata)
        return self._view, nodata

    def _warped(self, nodata: float) -> WarpedVRT:
        return WarpedVRT(
            self._file, crs=self.place.crs, transform=self.place.transform, width=self.place.width,
            height=self.place.height, resampling=self.resampling, src_nodata=nodata, nodata=nodata,
            tolerance=1e-6,  # pixels: near exact, so that the result does not depend on which piece is read
        )  # fmt: skip


def look(layer: Layer) -> Look:
    """What the layer's file says of it.

    Raises:
        DataError: the file cannot be opened, has no such band, no CRS, or values that are no reflectance.
    """
    try:
        with rasterio.open(layer.source) as file:
            if layer.number > file.count:
                raise DataError(f"{layer.path} has {file.count} bands, not the {layer.number} of images.file_bands")
            if file.crs is None:
                raise DataError(
                    f"{layer.path} has no CRS: assign one (gdal_edit.py -a_srs EPSG:32632 {layer.path.name})"
                )
            if max(file.shape) > MOST_PIXELS or max(h * w for h, w in file.block_shapes) > MOST_IN_BLOCK:
                raise DataError(f"{layer.path} says it is {file.shape} px large, it is damaged: fetch it again")
            index = layer.number - 1
            scale, offset, kind = float(file.scales[index]), float(file.offsets[index]), file.dtypes[index]
            tagged = (scale, offset) != (1.0, 0.0)
            if not np.isfinite([scale, offset, *file.bounds]).all() or scale <= 0:
                raise DataError(
                    f"{layer.path} has the scale {scale:g}, the offset {offset:g} and the bounds {tuple(file.bounds)}: "
                    "fetch it again, or set images.scale in scene.yaml"
                )
            block = file.block_shapes[index]
            found = file.crs, tuple(file.bounds), abs(file.transform.a), _native(file)
    except FAILURES as error:
        raise damaged(layer, error) from None
    return Look(*found, *((scale, offset) if tagged else (SCALE, 0.0)), kind, block)


def damaged(layer: Layer, error: Exception) -> DataError:
    reason = str(error) if str(error) and "See previous" not in str(error) else str(error.__cause__ or error)
    named = f"{layer.path}: {layer.address.removeprefix('/vsicurl/')}" if layer.address else f"{layer.path}"
    return DataError(f"{named} cannot be read, it may be cut short ({reason}): fetch it again, or take the date out")


def _native(file: Any) -> Grid | None:
    """The grid a file lies on; None where its pixels are no squares along the axes of its CRS."""
    transform = file.transform
    square = transform.b == 0 == transform.d and abs(transform.a + transform.e) < 1e-6 and transform.a > 0
    if not square or file.crs is None:
        return None
    return Grid(file.crs, transform.c, transform.f, transform.a, file.height, file.width)


def _allow_many_files() -> None:
    """A year of bands is some hundred open files: as many as the system lets this process have."""
    with contextlib.suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 10240 if most == resource.RLIM_INFINITY else most  # macOS: no limit is given, but more is refused
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
