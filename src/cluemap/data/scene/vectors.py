"""Vector files and tables of the user's, in the CRS of the scene, and the classes they name."""

from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError
from pyproj import CRS
from pyproj.exceptions import CRSError

from cluemap.data.patches import VOID, CropClass
from cluemap.data.scene.description import (
    BACKGROUND,
    COLOURS,
    NAME,
    Areas,
    Class,
    Points,
    Polygons,
    nearest,
    read_csv,
)
from cluemap.data.scene.grid import Grid
from cluemap.errors import DataError

LEFT_OUT = -1  # a label that is not used


class ClassTable:
    """What the labels' values mean: ids 1..K in the order of scene.yaml, 0 = background."""

    def __init__(self, classes: Sequence[Class], source: Path):
        crops = [one for one in classes if one.name != BACKGROUND]
        self.source = source
        self.crops = tuple(CropClass(one.name, one.colour or COLOURS[i % len(COLOURS)]) for i, one in enumerate(crops))
        self.has_background = len(crops) < len(classes)
        self._ids: dict[str, int] = {}
        numbers = {one.name: number for number, one in enumerate(crops, 1)} | {BACKGROUND: 0}
        for one in classes:
            for value in [one.name] if one.values is None else one.values:
                if self._ids.setdefault(str(value), numbers[one.name]) != numbers[one.name]:
                    raise DataError(f"{source}: the value {value!r} belongs to two classes: give it to one of them")

    def ids(self, values: Sequence[object], file: Path, others: str) -> NDArray[np.int16]:
        """n values -> n ids, LEFT_OUT for those that `others` leaves unlabelled.

        Raises:
            DataError: a value that is in no class, where `others` refuses it. Names them all.
        """
        names = [_text(value) for value in values]
        unknown = sorted({name for name in names if name not in self._ids})
        if unknown and others == "refuse":
            shown = ", ".join(repr(name) for name in unknown[:8]) + (" ..." if len(unknown) > 8 else "")
            raise DataError(
                f"{file} holds {shown}, which no class of {self.source} names{nearest(unknown[0], list(self._ids))}; "
                "add it to a class's `values`, or say by labels.others what becomes of it (unlabelled, background)"
            )
        instead = 0 if others == "background" else LEFT_OUT
        return np.array([self._ids.get(name, instead) for name in names], np.int16)


def read_shapes(folder: Path, spec: Polygons | Points | Areas, grid: Grid) -> gpd.GeoDataFrame:
    """The labels' features, repaired, in the grid's CRS, with the column(s) that `spec` names.

    Raises:
        DataError: missing or unreadable file, no such column, no CRS, or nothing that lies on the images.
    """
    file = folder / spec.file
    if isinstance(spec, Points) and file.suffix.lower() == ".csv":
        table = _points_of_csv(file, spec)
    else:
        table = read_vector(file, getattr(spec, "layer", None))
    wanted = spec.key if isinstance(spec, Areas) and spec.key else spec.column
    if wanted not in table:
        raise DataError(f"{file} has no column {wanted!r}{nearest(wanted, list(table))}; it has {list(table.columns)}")
    return on_grid(table, file, spec.crs, grid)


def read_vector(file: Path, layer: str | None = None) -> gpd.GeoDataFrame:
    """Any vector file that GDAL reads; raises DataError."""
    if not file.exists():
        raise DataError(f"{file} is missing: mend its name in {NAME}, or put it there")
    try:
        table = gpd.read_file(file, layer=layer) if layer else gpd.read_file(file)
    except (DataSourceError, ValueError, OSError, RuntimeError) as error:
        raise DataError(
            f"{file} cannot be read as a vector file ({error}): export it again, e.g. as GeoPackage"
        ) from None
    if not isinstance(table, gpd.GeoDataFrame) or not len(table):
        raise DataError(f"{file} holds no features: name the layer, or export it again")
    return table


def on_grid(table: gpd.GeoDataFrame, file: Path, crs: str | None, grid: Grid) -> gpd.GeoDataFrame:
    """The features in the grid's CRS; empty ones and those off the images taken out.

    Raises:
        DataError: no CRS is known, or nothing lies on the images.
    """
    if crs:
        try:
            table = table.set_crs(CRS.from_user_input(crs), allow_override=True)
        except CRSError:
            raise DataError(f"{file}: labels.crs {crs!r} is no CRS: give one like EPSG:4326") from None
    if table.crs is None:
        raise DataError(f"{file} does not say its CRS: set labels.crs in {NAME}, e.g. EPSG:4326, or add its .prj file")
    own = table.total_bounds
    table = table.to_crs(CRS.from_wkt(grid.crs.to_wkt()))
    table = table.set_geometry(shapely.make_valid(table.geometry.values))
    finite = np.isfinite(table.geometry.bounds.to_numpy()).all(axis=1)
    inside = finite & ~table.geometry.is_empty & table.intersects(shapely.box(*grid.bounds))
    if not inside.any():
        raise DataError(
            f"{file}: none of its {len(table)} features lies on the images: they span {np.round(own, 4).tolist()} in "
            f"their CRS, the images {np.round(grid.bounds, 1).tolist()} in {grid.name}; is the CRS right?"
        )
    return table[inside].reset_index(drop=True)


def crops_of(folder: Path, spec: Areas, table: gpd.GeoDataFrame, classes: ClassTable) -> NDArray[np.bool_]:
    """a k: which crops every area (row of `table`) is said to have; raises DataError."""
    lists, file = table[spec.column].tolist() if not spec.table else [], folder / spec.file
    if spec.table and spec.key:
        file = folder / spec.table
        rows = read_csv(file, [spec.key, spec.column])
        joined = rows.groupby(spec.key)[spec.column].agg(spec.separator.join)  # one line a crop, or one line an area
        keys = [_text(value) for value in table[spec.key]]
        lists = [joined.get(key, "") for key in keys]
        if not any(lists):
            raise DataError(f"{file}: no {spec.key!r} of it is in {folder / spec.file}: mend labels.key in {NAME}")
    held = np.zeros((len(table), len(classes.crops)), bool)
    for row, text in zip(held, lists, strict=True):
        names = [name.strip() for name in _text(text).split(spec.separator) if name.strip()]
        for number in classes.ids(names, file, "refuse"):
            if number > 0:
                row[number - 1] = True
    return held


def label_ids(table: gpd.GeoDataFrame, spec: Polygons | Points, folder: Path, classes: ClassTable) -> NDArray[np.uint8]:
    """One id for every feature; VOID where it is left unlabelled."""
    ids = classes.ids(table[spec.column].tolist(), folder / spec.file, spec.others)
    return np.where(ids == LEFT_OUT, VOID, ids).astype(np.uint8)


def _points_of_csv(file: Path, spec: Points) -> gpd.GeoDataFrame:
    table = read_csv(file, [spec.x, spec.y, spec.column])
    try:
        x, y = table[spec.x].astype(float), table[spec.y].astype(float)
    except ValueError as error:
        raise DataError(f"{file}: {spec.x} and {spec.y} are not all numbers ({error}): mend the table") from None
    return gpd.GeoDataFrame(table, geometry=gpd.points_from_xy(x, y))


def _text(value: object) -> str:
    """How a value is written in scene.yaml: 3.0 (a number column with gaps) is "3", a gap is ""."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
