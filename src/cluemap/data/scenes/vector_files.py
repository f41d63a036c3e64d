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
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.scene_file import (
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


def read_shapes(folder: Path, spec: Polygons | Points | Areas, grid: Grid) -> tuple[gpd.GeoDataFrame, int]:
    """The labels' features on the images, repaired, in the grid's CRS, with the column(s) that `spec` names; and how
    many lie off the images.

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


def on_grid(table: gpd.GeoDataFrame, file: Path, crs: str | None, grid: Grid) -> tuple[gpd.GeoDataFrame, int]:
    """The features in the grid's CRS without those off the images and empty ones, and how many these are.

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
    moved = table.to_crs(CRS.from_wkt(grid.crs.to_wkt()))
    moved = moved.set_geometry(shapely.make_valid(moved.geometry.values))
    inside = _inside(moved, grid)
    if not inside.any():
        raise DataError(
            f"{file}: none of its {len(table)} features lies on the images: they span "
            f"{np.round(table.total_bounds, 4).tolist()} in {table.crs.to_string()[:40]}, the images "
            f"{np.round(grid.bounds, 1).tolist()} in {grid.name}; {_better_crs(table, grid)}"
        )
    return moved[inside].reset_index(drop=True), int((~inside).sum())


def _inside(table: gpd.GeoDataFrame, grid: Grid) -> NDArray[np.bool_]:
    """n: whether the feature touches the images (coordinates that its CRS cannot have are infinite by now)."""
    finite = np.isfinite(table.geometry.bounds.to_numpy()).all(axis=1)
    return np.asarray(finite & ~table.geometry.is_empty & table.intersects(shapely.box(*grid.bounds)))


def _better_crs(table: gpd.GeoDataFrame, grid: Grid) -> str:
    """What to do about features that miss the images: the CRS in which they would not, if an obvious one is."""
    ours = CRS.from_wkt(grid.crs.to_wkt())
    for name, crs in ((grid.name, ours), ("EPSG:4326", CRS.from_epsg(4326))):
        if _inside(table.set_crs(crs, allow_override=True).to_crs(ours), grid).any():
            return f"taken as {name} they do: set that as the labels' `crs` in {NAME}"
    return "is their CRS right, and are these the images?"


def crops_of(folder: Path, spec: Areas, table: gpd.GeoDataFrame, classes: ClassTable) -> list[NDArray[np.bool_] | None]:
    """For every area (row of `table`) k: which crops it is said to have; None where nothing is said.

    Raises:
        DataError: an unknown crop, or a table of lists that goes with none of the areas.
    """
    lists, file = table[spec.column].tolist() if not spec.table else [], folder / spec.file
    if spec.table and spec.key:
        file = folder / spec.table
        rows = read_csv(file, [spec.key, spec.column])
        joined = rows.groupby(spec.key)[spec.column].agg(spec.separator.join)  # one line a crop, or one line an area
        keys = [_text(value) for value in table[spec.key]]
        lists = [joined.get(key, "") for key in keys]
    names = [[name.strip() for name in _text(text).split(spec.separator) if name.strip()] for text in lists]
    if not any(names):
        raise DataError(f"{file}: none of the {len(table)} areas has a list of crops: mend labels.column or labels.key")
    numbers = np.arange(1, len(classes.crops) + 1)
    return [np.isin(numbers, classes.ids(row, file, "refuse")) if row else None for row in names]


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
