"""Vector files and tables of the user's, in the CRS of the scene; only what lies on it is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from shapely.errors import ShapelyError

from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.scene_file import NAME
from cluemap.data.scenes.tables import listed, nearest
from cluemap.data.scenes.vectors.attributes import column_of, encoding_of
from cluemap.errors import DataError

FAILURES = (
    *(DataSourceError, ValueError, OSError, RuntimeError, KeyError, TypeError, ProjError),
    *(ShapelyError, ArithmeticError, MemoryError, AttributeError, IndexError),
)
PARQUET = (".parquet", ".geoparquet")


@dataclass(frozen=True)
class VectorFile:
    """A file of features, and what is said of it."""

    path: Path
    layer: str | None = None
    crs: str | None = None  # of a file that does not say, or says it wrong
    encoding: str | None = None
    correction: str = f"set labels.crs in {NAME}"  # what errors about the CRS advise


@dataclass(frozen=True)
class Features:
    """Those features of a file that lie on the grid, in its CRS. The index is the row in the file, from 0."""

    table: gpd.GeoDataFrame
    total: int  # features of the file
    off: int  # of them, how many lie off the grid
    empty: int  # and how many have no geometry


def read_features(source: VectorFile, grid: Grid, column: str | None = None) -> Features:
    """What of the file lies on the grid; of the columns only `column` (absent: all).

    Raises:
        DataError: missing or unreadable file, no such column, no CRS, or nothing that lies on the grid.
    """
    if not source.path.exists():
        raise DataError(f"{source.path} is missing: correct its name, or put it there")
    try:
        if source.path.suffix.lower() in PARQUET:
            return _of_parquet(source, grid, column)
        return _of_layer(source, grid, column)
    except FAILURES as error:
        raise _unreadable(source.path, error) from None


def _of_parquet(source: VectorFile, grid: Grid, column: str | None) -> Features:
    table = gpd.read_parquet(source.path).reset_index(drop=True)
    if not len(table):
        raise DataError(f"{source.path} holds no features: export it again")
    if column is not None:
        table = table.rename(columns={column_of(source.path, column, list(table)): column})
    return on_grid(table, source, grid)


def _of_layer(source: VectorFile, grid: Grid, column: str | None) -> Features:
    """Of any file that GDAL reads: the grid's box alone."""
    info = file_info(source)
    crs = crs_of(source, info["crs"])
    box = Transformer.from_crs(_pyproj(grid), crs, always_xy=True).transform_bounds(*grid.bounds, densify_pts=21)
    bbox = tuple(box) if np.isfinite(box).all() and box[0] <= box[2] else None
    columns = None if column is None else [column_of(source.path, column, list(info["fields"]))]
    table = pyogrio.read_dataframe(
        source.path, layer=source.layer, encoding=info["encoding"], columns=columns, bbox=bbox, fid_as_index=True
    )
    if not isinstance(table, gpd.GeoDataFrame):
        raise DataError(f"{source.path} holds a table without geometries: name the layer that has them")
    if columns:
        table = table.rename(columns={columns[0]: column})
    found = on_grid(table.set_crs(crs, allow_override=True), source, grid, strict=False)
    return found if len(found.table) == info["features"] else _counted(source, info, crs, found, grid)


def file_info(source: VectorFile) -> dict[str, Any]:
    """What pyogrio says of the layer: crs, fields, features, encoding to read it with.

    Raises:
        DataError: it cannot be read, or holds nothing.
    """
    try:
        if source.layer is not None:
            names = [str(name) for name, _ in pyogrio.list_layers(source.path)]
            if source.layer not in names:
                raise DataError(
                    f"{source.path} has no layer {source.layer!r}{nearest(source.layer, names)}; it has {listed(names)}"
                )
        info = dict(pyogrio.read_info(source.path, layer=source.layer, force_feature_count=True))
    except FAILURES as error:
        raise _unreadable(source.path, error) from None
    if not info["features"]:
        raise DataError(f"{source.path} holds no features: name the layer, or export it again")
    info["encoding"] = source.encoding or encoding_of(source.path)
    return info


def crs_of(source: VectorFile, own: object) -> CRS:
    """The CRS that is set, else the file's; raises DataError where there is none."""
    try:
        if source.crs:
            return CRS.from_user_input(source.crs)
        if own is None:
            raise DataError(f"{source.path} does not say its CRS: {source.correction}, or add its .prj file")
        return CRS.from_user_input(own)
    except CRSError:
        raise DataError(
            f"{source.path}: the CRS {source.crs or own!r} is none: {source.correction}, e.g. EPSG:4326"
        ) from None


def on_grid(table: gpd.GeoDataFrame, source: VectorFile, grid: Grid, strict: bool = True) -> Features:
    """The features of a whole table that lie on the grid, in its CRS.

    Raises:
        DataError: no CRS is known; where `strict`, nothing lies on the images.
    """
    table = table.set_crs(crs_of(source, table.crs), allow_override=True)
    empty = table.geometry.isna() | table.geometry.is_empty
    moved = table[~empty].to_crs(_pyproj(grid))
    inside = _inside(moved, grid)
    if strict and not inside.any():
        bounds = _finite(table.total_bounds)
        raise _off(source, table.crs, len(table), int(empty.sum()), bounds, grid)
    return Features(moved[inside], len(table), int((~inside).sum()), int(empty.sum()))


def _counted(source: VectorFile, info: dict[str, Any], crs: CRS, found: Features, grid: Grid) -> Features:
    """With the features that a read by box leaves out; raises DataError where nothing was left."""
    _, bounds = pyogrio.read_bounds(source.path, layer=source.layer)
    empty = int(np.isnan(bounds).any(axis=0).sum())
    total = int(info["features"])
    if not len(found.table):
        known = bounds[:, ~np.isnan(bounds).any(axis=0)]
        span = np.array([*known[:2].min(axis=1), *known[2:].max(axis=1)]) if known.size else np.full(4, np.nan)
        raise _off(source, crs, total, empty, span, grid)
    return Features(found.table, total, total - empty - len(found.table), empty)


def _off(source: VectorFile, crs: CRS, total: int, empty: int, bounds: NDArray, grid: Grid) -> DataError:
    if empty == total:
        return DataError(f"{source.path}: none of its {total} features has a geometry: export it again")
    without = f" ({empty} of them have no geometry)" if empty else ""
    return DataError(
        f"{source.path}: none of its {total} features lies on the images{without}: they span "
        f"{np.round(bounds, 4).tolist()} in {crs.to_string()[:40]}, the images {np.round(grid.bounds, 1).tolist()} in "
        f"{grid.name}; {_better_crs(source, bounds, grid)}"
    )


def _better_crs(source: VectorFile, bounds: NDArray, grid: Grid) -> str:
    """What to do about features that miss the images: the CRS in which they would not, if an obvious one is."""
    ours, box = _pyproj(grid), shapely.box(*grid.bounds)
    for name, crs in ((grid.name, ours), ("EPSG:4326", CRS.from_epsg(4326))):
        try:
            moved = Transformer.from_crs(crs, ours, always_xy=True).transform_bounds(*bounds)
        except ProjError:
            continue
        if np.isfinite(moved).all() and shapely.box(*moved).intersects(box):
            return f"taken as {name} they do: {source.correction.replace('`', '')} to {name}"
    return "is their CRS right, and are these the images?"


def _inside(table: gpd.GeoDataFrame, grid: Grid) -> NDArray[np.bool_]:
    """n: whether the feature touches the images (coordinates that its CRS cannot have are infinite by now)."""
    finite = np.isfinite(table.geometry.bounds.to_numpy()).all(axis=1)
    return np.asarray(finite & table.intersects(shapely.box(*grid.bounds)).to_numpy())


def _finite(bounds: NDArray) -> NDArray:
    return np.where(np.isfinite(bounds), bounds, 0.0)


def _pyproj(grid: Grid) -> CRS:
    return CRS.from_wkt(grid.crs.to_wkt())


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} cannot be read as a vector file ({error}): export it again, e.g. as GeoPackage")
