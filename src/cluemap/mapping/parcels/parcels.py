"""Parcels that a map is summed up by: every row of the user's file, checked before anything is predicted."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from cluemap.data.patches import VOID, Legend
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.vectors.geometries import polygonal
from cluemap.data.scenes.vectors.vector_files import FAILURES, PARQUET, VectorFile, file_info, read_features
from cluemap.errors import DataError
from cluemap.mapping.geotiff import entries
from cluemap.mapping.map_canvas import CLASSES, CONFIDENCE, Canvas

SQUARE_METRES = 10_000  # a hectare
ROW, RULE, TRIED = "source_row", "pixel_rule", 200  # features of the trial file
RESERVED = ("fid", "geom", "geometry", "ogc_fid")  # names that a GeoPackage or GeoPandas uses itself
STEP = 1024  # rows of the map drawn at once
log = logging.getLogger(__name__)


def read_parcels(file: Path, grid: Grid, legend: Legend, out: Path) -> gpd.GeoDataFrame:
    """Every row of `file`: its own columns (those that clash are renamed), `source_row` (from 0), and the geometry in
    the map's CRS of those that lie on the map. That the result can be written beside `out` is tried out.

    Raises:
        DataError: no such file, no CRS, nothing on the map, or columns that cannot be written.
    """
    source = VectorFile(file, correction=f"assign its CRS (--parcels {file.name})")
    found = read_features(source, grid)
    rows = _attributes(source, found.table.columns.drop(found.table.geometry.name).tolist())
    shapes = polygonal(found.table.geometry.values)
    outlines = pd.Series(shapes, index=found.table.index, dtype=object).reindex(rows.index)
    rows = _renamed(rows.reset_index(drop=True), own_columns(legend), file)
    rows.insert(0, ROW, np.arange(len(rows)))
    table = gpd.GeoDataFrame(_writable(rows), geometry=gpd.GeoSeries(outlines.to_numpy(object), crs=found.table.crs))
    missing = int(table.geometry.isna().sum())
    if missing == len(table):
        raise DataError(f"{file} holds no polygons on the map: give --parcels a file of polygons")
    if missing:
        log.warning(
            "%s: %d of %d parcels have no area on the map (%d off it, %d without geometry): their rows stay, empty",
            file, missing, len(table), found.off, found.empty,
        )  # fmt: skip
    _try_out(table, legend, out, file)
    return table


def own_columns(legend: Legend) -> list[str]:
    """The columns that `per_parcel` adds."""
    return [
        "majority",
        "majority_share",
        "confidence",
        "pixels",
        RULE,
        *(f"ha {name}" for _, name, _ in entries(legend)),
    ]


def per_parcel(canvas: Canvas, grid: Grid, legend: Legend, table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Every parcel, summed on its own, with majority class, its share, the mean confidence and hectares per class.

    A parcel takes the pixels whose centres it holds; one that holds none takes those that it touches.
    """
    ids = len(legend.classes) + 1
    counts, sums, rules = np.zeros((len(table), ids), np.int64), np.zeros(len(table)), []
    classes, confidence = canvas.open(CLASSES)[0], canvas.open(CONFIDENCE)[0]
    for number, shape in enumerate(table.geometry):
        counts[number], sums[number], rule = _sums(shape, grid, classes, confidence, ids)
        rules.append(rule)
    return described(table.copy(), counts, sums, rules, grid, legend)


def _sums(
    shape: BaseGeometry | None, grid: Grid, classes: NDArray, confidence: NDArray, ids: int
) -> tuple[NDArray[np.int64], float, str | None]:
    """Pixels per class, sum of their confidence, and by which rule they are the parcel's (None: it is off the map)."""
    counts, total = np.zeros(ids, np.int64), 0.0
    place = None if shape is None or shape.is_empty else pixels_around(shape, grid)
    if shape is None or place is None:
        return counts, total, None
    for rule in ("centre", "touched"):
        held = False
        for top in range(place[0].start, place[0].stop, STEP):
            rows = slice(top, min(top + STEP, place[0].stop))
            part = grid.cut(rows, place[1])
            inside = rasterize(
                [shape], out_shape=(part.height, part.width), transform=part.transform, dtype=np.uint8,
                all_touched=rule == "touched",
            ).astype(bool)  # fmt: skip
            held |= bool(inside.any())
            found, sure = classes[rows, place[1]][inside], confidence[rows, place[1]][inside]
            seen = found != VOID
            counts += np.bincount(found[seen], minlength=ids)
            total += float(sure[seen].sum(dtype=np.int64))
        if held:
            return counts, total, rule
    return counts, total, None


def pixels_around(shape: BaseGeometry, grid: Grid) -> tuple[slice, slice] | None:
    """Rows and columns of the grid that the shape's bounds reach."""
    left, bottom, right, top = shape.bounds
    rows = slice(
        max(0, int((grid.top - top) // grid.pixel)), min(grid.height, int((grid.top - bottom) // grid.pixel) + 1)
    )
    columns = slice(
        max(0, int((left - grid.left) // grid.pixel)), min(grid.width, int((right - grid.left) // grid.pixel) + 1)
    )
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def described(
    table: gpd.GeoDataFrame, counts: NDArray[np.int64], sums: NDArray, rules: list[str | None], grid: Grid,
    legend: Legend,
) -> gpd.GeoDataFrame:  # fmt: skip
    total = counts.sum(axis=1)
    names = {number: name for number, name, _ in entries(legend)}
    winner = counts.argmax(axis=1)
    table["majority"] = [names[number] if pixels else None for number, pixels in zip(winner, total, strict=True)]
    table["majority_share"] = (counts.max(axis=1) / np.maximum(total, 1)).round(4)
    table["confidence"] = (sums / np.maximum(total, 1)).round(1)
    table["pixels"] = total
    table[RULE] = pd.Series(rules, index=table.index, dtype="string")
    for number, name in names.items():
        table[f"ha {name}"] = (counts[:, number] * grid.pixel**2 / SQUARE_METRES).round(3)
    return table


def _attributes(source: VectorFile, columns: list[str]) -> pd.DataFrame:
    """The own columns of all rows; the index is as `read_features` gives it."""
    try:
        if source.path.suffix.lower() in PARQUET:
            return pd.DataFrame(gpd.read_parquet(source.path).reset_index(drop=True))[columns]
        encoding = file_info(source)["encoding"]
        return pd.DataFrame(
            pyogrio.read_dataframe(source.path, encoding=encoding, read_geometry=False, fid_as_index=True)
        )
    except FAILURES as error:
        raise DataError(f"{source.path} cannot be read ({error}): export it again, e.g. as GeoPackage") from None


def _renamed(table: pd.DataFrame, own: list[str], file: Path) -> pd.DataFrame:
    """Columns of the user's that clash with ours, with a GeoPackage's, or (in one without regard to capitals) with
    each other get `_input` behind their names."""
    taken = {name.lower() for name in (*own, *RESERVED, ROW)}
    names: dict[str, str] = {}
    for name in map(str, table.columns):
        new, turn = name, 1
        while new.lower() in taken:
            new, turn = f"{name}_input{'' if turn == 1 else turn}", turn + 1
        taken.add(new.lower())
        names[name] = new
    if changed := [f"{old} -> {new}" for old, new in names.items() if old != new]:
        log.warning("%s: columns renamed in the result, since it has its own: %s", file, ", ".join(changed))
    return table.set_axis(list(names.values()), axis=1)


def _writable(table: pd.DataFrame) -> pd.DataFrame:
    """Lists and mixed values as text: no vector format holds them."""
    return table.assign(
        **{
            name: [value if value is None or isinstance(value, str) else str(value) for value in table[name]]
            for name in table.columns
            if table[name].dtype == object
        }
    )


def _try_out(table: gpd.GeoDataFrame, legend: Legend, out: Path, file: Path) -> None:
    """Write some rows with the result's columns, to see that it will go: a map takes hours."""
    few = table.head(TRIED)
    ids = len(legend.classes) + 1
    rows = [None] * len(few)
    some = described(few.copy(), np.zeros((len(few), ids), np.int64), np.zeros(len(few)), list(rows),
                      Grid(table.crs, 0, 0, 1, 1, 1), legend)  # fmt: skip
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent) as folder:
            write_geopackage(some, Path(folder) / "trial.gpkg")
    except FAILURES as error:
        raise DataError(
            f"{file}: its columns cannot be written to a GeoPackage ({error}): rename or remove the one it names"
        ) from None


def write_geopackage(table: gpd.GeoDataFrame, file: Path) -> None:
    pyogrio.write_dataframe(table, file, driver="GPKG", layer="parcels", geometry_type="MultiPolygon",
                            promote_to_multi=True)  # fmt: skip
