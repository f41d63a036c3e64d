"""A labelled sample: where its units lie, what they are called, and whether it is the probability sample it claims."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyogrio import list_layers
from pyogrio.errors import DataSourceError
from pyproj import CRS

from cluemap.errors import DataError
from cluemap.mapping.postprocessing.class_map import ClassMap
from cluemap.statistics.sample_drawing import LAYER, WGS84


@dataclass(frozen=True)
class ReferenceSample:
    """Units of a sample on a map. Axis u: the unit."""

    file: Path
    table: gpd.GeoDataFrame  # u rows as read, points in the map's CRS
    reference: list[str]  # u, names of classes; "" = not labelled
    rows: NDArray[np.intp]  # u, pixel of the map
    columns: NDArray[np.intp]
    mapped: NDArray[np.int64]  # u, the map's class there, its `void` off the data

    def __len__(self) -> int:
        return len(self.reference)

    def only(self, kept: NDArray[np.bool_]) -> "ReferenceSample":
        names = [name for name, keep in zip(self.reference, kept, strict=True) if keep]
        table = self.table[kept].reset_index(drop=True)
        return ReferenceSample(self.file, table, names, self.rows[kept], self.columns[kept], self.mapped[kept])

    def named(self, which: NDArray[np.bool_]) -> str:
        """Some units for a message: by their id, else by their line."""
        names = self.table["id"] if "id" in self.table else pd.Series(np.arange(1, len(self) + 1))
        found = [str(name) for name in names[which]]
        return ", ".join(found[:6]) + (" ..." if len(found) > 6 else "")


def read_sample(file: Path, source: ClassMap, column: str, extra: Sequence[str] = ()) -> ReferenceSample:
    """A vector file of points, or CSV with lon and lat (or x and y in the map's CRS).

    Raises:
        DataError: missing or unreadable file, no such column, points without place, or labels that are no classes of
        the map nor named in `extra`.
    """
    if not file.exists():
        raise DataError(f"{file} is missing: draw a sample with src/draw_sample.py and label it")
    table = _points(file, source)
    if column not in table:
        raise DataError(
            f"{file} has no column {column!r}: name the one with the labels by --column; it has {list(table)}"
        )
    reference = _class_names([_text(value) for value in table[column]], source, extra, file, column)
    rows, columns = source.pixels(table.geometry.x.to_numpy(), table.geometry.y.to_numpy())
    inside = source.on_map(rows, columns)
    mapped = np.full(len(table), source.void, np.int64)
    mapped[inside] = source.values(rows[inside], columns[inside])
    return ReferenceSample(file, table, reference, rows, columns, mapped)


def _points(file: Path, source: ClassMap) -> gpd.GeoDataFrame:
    crs = CRS.from_wkt(source.crs.to_wkt())
    try:
        if file.suffix.lower() == ".csv":
            return _points_of_csv(pd.read_csv(file), file, crs)
        layers = [name for name, _ in list_layers(file)]
        table = gpd.read_file(file, layer=LAYER if LAYER in layers else layers[0])
    except (DataSourceError, UnicodeDecodeError, ValueError, OSError) as error:
        raise DataError(f"{file} cannot be read ({error}): export it again as GeoPackage or CSV") from None
    if not isinstance(table, gpd.GeoDataFrame) or not len(table) or not (table.geom_type == "Point").all():
        raise DataError(f"{file} holds no points: give the labelled units, one point each")
    if table.crs is None:
        raise DataError(f"{file} does not say its CRS: export it again with one")
    return table.to_crs(crs)


def _points_of_csv(table: pd.DataFrame, file: Path, crs: CRS) -> gpd.GeoDataFrame:
    for x, y, of in (("lon", "lat", WGS84), ("x", "y", crs)):
        if x in table and y in table:
            places = table[[x, y]].apply(pd.to_numeric, errors="coerce")
            if places.isna().any(axis=None):
                lines = (np.flatnonzero(places.isna().any(axis=1))[:6] + 2).tolist()
                raise DataError(f"{file}: {x} and {y} are no numbers in lines {lines}: mend the table")
            return gpd.GeoDataFrame(table, geometry=gpd.points_from_xy(places[x], places[y]), crs=of).to_crs(crs)
    raise DataError(f"{file} has neither columns lon, lat nor x, y: add where the units lie; it has {list(table)}")


def _text(value: object) -> str:
    """3.0 (a number column with gaps) is "3", a gap is ""."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _class_names(labels: list[str], source: ClassMap, extra: Sequence[str], file: Path, column: str) -> list[str]:
    """Labels -> names of classes: written as on the map or as its number, in any case."""
    known = {str(number): name for number, name in source.names.items()}
    known |= {name.casefold(): name for name in (*source.names.values(), *extra)} | {"": ""}
    unknown = sorted({label for label in labels if label.casefold() not in known})
    if unknown:
        near = difflib.get_close_matches(unknown[0].casefold(), list(known), n=1, cutoff=0.5)
        guess = f": did you mean {known[near[0]]!r}?" if near else ""
        raise DataError(
            f"{file}: {', '.join(map(repr, unknown[:8]))} in {column!r} is no class of {source.file}{guess}; it has "
            f"{list(source.names.values())}. Mend the label, or name a class that the map lacks by --extra"
        )
    return [known[label.casefold()] for label in labels]
