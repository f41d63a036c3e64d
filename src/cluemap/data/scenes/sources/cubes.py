"""Images as a data cube (NetCDF, Zarr) of dimensions time, y, x, and band or one variable a band, through xarray."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.scene_file import NAME, Images
from cluemap.data.scenes.sources.granules import MASK, SCALE, Granule, Layer, chosen
from cluemap.errors import DataError

DIMENSIONS = {
    "time": ("time", "t", "date"),
    "y": ("y", "lat", "latitude", "northing"),
    "x": ("x", "lon", "longitude", "easting"),
    "band": ("band", "bands"),
}
EVEN = 1e-3  # pixels by which coordinates may be off their lattice


@dataclass(frozen=True)
class CubeLayer(Layer):
    """One date of one band of a cube."""

    variable: str = ""
    time: int = 0
    band: int | None = None  # along the dimension `band`, where there is one


class CubeBand:
    """A layer of a cube on the scene's lattice; safe to use from several threads. As `Raster`."""

    def __init__(self, layer: CubeLayer, grid: Grid, place: Grid):
        self.layer, self.grid, self.place = layer, grid, place
        self._lock = Lock()

    def read(self, rows: slice, columns: slice) -> tuple[NDArray, NDArray[np.bool_]]:
        """h w values as stored, and which of them were seen; rows and columns of the grid."""
        row, column = self.grid.offset(self.place)
        mine = slice(max(rows.start - row, 0), min(rows.stop - row, self.place.height))
        across = slice(max(columns.start - column, 0), min(columns.stop - column, self.place.width))
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        values, seen = np.zeros(shape, np.float32), np.zeros(shape, bool)
        if mine.start >= mine.stop or across.start >= across.stop:
            return values, seen
        found = self._values(mine, across)
        values = values.astype(found.dtype)
        top, left = mine.start + row - rows.start, across.start + column - columns.start
        inside = np.s_[top : top + found.shape[0], left : left + found.shape[1]]
        nodata = 0.0 if self.layer.nodata is None else self.layer.nodata
        values[inside] = found
        seen[inside] = (found != nodata) & (np.isfinite(found) if found.dtype.kind == "f" else True)
        return values, seen

    def _values(self, rows: slice, columns: slice) -> NDArray:
        cube = open_cube(self.layer.path)
        names = dimensions(cube, self.layer.path)
        upwards = bool(cube[names["y"]][0] < cube[names["y"]][-1])
        height = cube.sizes[names["y"]]
        wanted = slice(height - rows.stop, height - rows.start) if upwards else rows
        place = {names["time"]: self.layer.time, names["y"]: wanted, names["x"]: columns}
        if self.layer.band is not None:
            place[names["band"]] = self.layer.band
        try:
            with self._lock:
                found = cube[self.layer.variable].isel(place).transpose(names["y"], names["x"]).values
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise DataError(f"{self.layer.path} cannot be read ({error}): write it again") from None
        return found[::-1] if upwards else found


def find_dates(file: Path, images: Images, notes: list[str]) -> Iterator[Granule]:
    """One granule a time step."""
    cube = open_cube(file)
    names = dimensions(cube, file)
    place_of_cube(file)
    try:
        times = [pd.Timestamp(value) for value in cube[names["time"]].values]
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: {names['time']} holds no dates ({error}): write it with datetime64 values") from None
    for number, when in enumerate(times):
        layers = {band: layer for band in images.bands if (layer := _layer(file, cube, names, band, number))}
        mask = _layer(file, cube, names, MASK, number) if images.hide else None
        bands: dict[str, Layer] = {band: chosen(images, layer) for band, layer in layers.items()}
        yield Granule(when.date(), "", bands, mask, file / str(when.date()), when.strftime("%Y%m%dT%H%M%S"))


def place_of_cube(file: Path) -> Grid:
    """The lattice of a cube; raises DataError where its pixels are no even squares, or it names no CRS."""
    cube = open_cube(file)
    names = dimensions(cube, file)
    x, y = (np.asarray(cube[names[axis]].values, np.float64) for axis in ("x", "y"))
    if min(len(x), len(y)) < 2:
        raise DataError(f"{file} is {len(y)} x {len(x)} pixels: a cube needs two or more along each side")
    pixel = (x[-1] - x[0]) / (len(x) - 1)
    top = max(y[0], y[-1])
    even = np.abs(np.diff(x) - pixel).max() < EVEN * abs(pixel)
    even &= np.abs(np.abs(np.diff(y)) - abs(pixel)).max() < EVEN * abs(pixel)
    if not even or pixel <= 0:
        raise DataError(f"{file}: its x and y coordinates are no even squares: resample the cube to square pixels")
    return Grid(_crs(file, cube), x[0] - pixel / 2, top + pixel / 2, float(pixel), len(y), len(x))


@lru_cache(maxsize=8)
def _opened(path: str, changed: int) -> Any:
    import xarray

    folder = Path(path).is_dir()
    return xarray.open_dataset(path, engine="zarr" if folder else None, mask_and_scale=False, chunks=None)


def open_cube(file: Path) -> Any:
    """The data set, values as stored; raises DataError."""
    try:
        return _opened(str(file), file.stat().st_mtime_ns)
    except ImportError:
        raise DataError("images.kind: cube needs xarray, zarr, h5py, h5netcdf: pip install 'cluemap[cube]'") from None
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise DataError(
            f"{file} is no data cube that xarray reads ({error}): write it again as NetCDF or Zarr"
        ) from None


def dimensions(cube: Any, file: Path) -> dict[str, str]:
    """What the cube calls time, y, x and band."""
    found = {
        axis: next((name for name in cube.sizes if str(name).lower() in names), None)
        for axis, names in DIMENSIONS.items()
    }
    for axis in ("time", "y", "x"):
        if found[axis] is None:
            raise DataError(f"{file} has no dimension {axis}; it has {[str(name) for name in cube.sizes]}: rename them")
    return {axis: str(name) for axis, name in found.items() if name is not None}


def _layer(file: Path, cube: Any, names: dict[str, str], band: str, time: int) -> CubeLayer | None:
    """The band as a variable of its own, or along the dimension `band`; None where the cube lacks it."""
    axes = {names["time"], names["y"], names["x"]}
    number = None
    if band in cube.data_vars and set(cube[band].dims) == axes:
        variable = band
    else:
        if "band" not in names or names["band"] not in cube.coords:
            return None
        along = [str(value) for value in cube[names["band"]].values]
        variable = next(
            (str(key) for key, held in cube.data_vars.items() if set(held.dims) == {*axes, names["band"]}), ""
        )
        if not variable or band not in along:
            return None
        number = along.index(band)
    told = {**cube[variable].encoding, **cube[variable].attrs}
    empty = told.get("_FillValue", told.get("missing_value"))
    scale = float(told.get("scale_factor", SCALE))
    shift = float(told.get("add_offset", 0.0))
    return CubeLayer(file, 1, scale, shift, None if empty is None else float(empty), "", variable, time, number)


def _crs(file: Path, cube: Any) -> CRS:
    """From the variable that CF names the grid mapping, or from an attribute."""
    told = [cube.attrs, *(cube[name].attrs for name in cube.variables)]
    keys = ("crs_wkt", "spatial_ref", "crs", "proj:epsg", "epsg")
    for value in (attributes[key] for attributes in told for key in keys if key in attributes):
        try:
            return CRS.from_user_input(int(value) if str(value).isdigit() else value)
        except (CRSError, ValueError, TypeError):
            continue
    raise DataError(f"{file} names no CRS: set the attribute crs of the data set, e.g. to EPSG:32632 ({NAME} cannot)")
