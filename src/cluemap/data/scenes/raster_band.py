"""One band of one file, seen on the scene's lattice and read piece by piece; safe to use from several threads."""

import contextlib
import os
import resource
from threading import Lock
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from cluemap.data.scenes.grid import Grid, grid_over, window_of
from cluemap.data.scenes.image_files import Layer
from cluemap.errors import DataError

os.environ.setdefault("GDAL_CACHEMAX", "512")  # MB of decoded tiles, over all files


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
            except (RasterioError, OSError) as error:
                raise damaged(self.layer, error) from None
        values, seen = np.zeros(shape, found.dtype), np.zeros(shape, bool)
        inside = np.s_[mine.start + row - rows.start : mine.stop + row - rows.start,
                       across.start + column - columns.start : across.stop + column - columns.start]  # fmt: skip
        values[inside] = found
        seen[inside] = (found != nodata) & (~np.isnan(found) if found.dtype.kind == "f" else True)
        return values, seen

    def _opened(self) -> tuple[Any, float]:
        """The file (or its resampled view), opened at first use and kept: closing it would drop its decoded tiles."""
        if self._file is None:
            _allow_many_files()
            self._file = rasterio.open(self.layer.path)
        nodata = self.layer.nodata if self.layer.nodata is not None else self._file.nodata
        nodata = 0.0 if nodata is None else float(nodata)
        if self._view is None:
            own = native(self._file)
            same = own is not None and self.place.aligned(own) and self.place.offset(own) == (0, 0)
            self._view = self._file if same else self._warped(nodata)
        return self._view, nodata

    def _warped(self, nodata: float) -> WarpedVRT:
        return WarpedVRT(
            self._file, crs=self.place.crs, transform=self.place.transform, width=self.place.width,
            height=self.place.height, resampling=self.resampling, src_nodata=nodata, nodata=nodata,
            tolerance=1e-6,  # pixels: near exact, so that the result does not depend on which piece is read
        )  # fmt: skip


def native(file: Any) -> Grid | None:
    """The grid a file lies on; None where its pixels are no squares along the axes of its CRS."""
    transform = file.transform
    square = transform.b == 0 == transform.d and abs(transform.a + transform.e) < 1e-6 and transform.a > 0
    if not square or file.crs is None:
        return None
    return Grid(file.crs, transform.c, transform.f, transform.a, file.height, file.width)


def footprint(layer: Layer, pixel: float) -> Grid | None:
    """The layer's extent in pixels of `pixel` metres, in its own CRS; None as `native`.

    Raises:
        DataError: the file cannot be opened, has no such band or no CRS.
    """
    try:
        with rasterio.open(layer.path) as file:
            if layer.number > file.count:
                raise DataError(f"{layer.path} has {file.count} bands, not the {layer.number} of images.file_bands")
            if file.crs is None:
                raise DataError(
                    f"{layer.path} has no CRS: assign one (gdal_edit.py -a_srs EPSG:32632 {layer.path.name})"
                )
            own, bounds = native(file), file.bounds
    except (RasterioError, OSError) as error:
        raise damaged(layer, error) from None
    if own is None or not own.crs.is_projected:
        return None
    return grid_over(own.crs, tuple(bounds), pixel)


def damaged(layer: Layer, error: Exception) -> DataError:
    reason = str(error) if str(error) and "See previous" not in str(error) else str(error.__cause__ or error)
    return DataError(
        f"{layer.path} cannot be read, it may be cut short ({reason}): fetch it again, or take the date out"
    )


def _allow_many_files() -> None:
    """A year of bands is some hundred open files: as many as the system lets this process have."""
    with contextlib.suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 10240 if most == resource.RLIM_INFINITY else most  # macOS: no limit is given, but more is refused
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
