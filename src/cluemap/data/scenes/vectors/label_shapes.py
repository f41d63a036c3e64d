"""The features that labels come from: of the kind that is wanted, on the images."""

from pathlib import Path

import geopandas as gpd
import pandas as pd

from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.scene_file import NAME, Areas, Points, Polygons
from cluemap.data.scenes.tables import read_csv
from cluemap.data.scenes.vectors.geometries import of_kind
from cluemap.data.scenes.vectors.vector_files import Features, VectorFile, on_grid, read_features
from cluemap.errors import DataError


def read_shapes(folder: Path, spec: Polygons | Points | Areas, grid: Grid, notes: list[str]) -> Features:
    """The labels' features on the images with the column that `spec` names: polygons, or of `Points` points. What is
    left out goes to `notes`.

    Raises:
        DataError: missing or unreadable file, no such column, no CRS, or nothing that lies on the images.
    """
    wanted = spec.key if isinstance(spec, Areas) and spec.key else spec.column
    file = folder / spec.file
    source = VectorFile(file, spec.layer, spec.crs, spec.encoding)
    if isinstance(spec, Points) and file.suffix.lower() == ".csv":
        found = on_grid(_points_of_csv(file, spec), source, grid)
    else:
        found = read_features(source, grid, wanted)
    kind = "points" if isinstance(spec, Points) else "polygons"
    table = of_kind(found.table, kind)
    if other := len(found.table) - len(table):
        notes.append(
            f"{file}: {other} of {len(found.table)} features are no {kind}: left out"
            + (" (labels.kind: points is for points)" if kind == "polygons" else "")
        )
    if not len(table):
        raise DataError(f"{file} holds no {kind} on the images: set labels.kind in {NAME} to what it holds")
    if found.empty:
        notes.append(f"{file}: {found.empty} of {found.total} features have no geometry: left out")
    return Features(table, found.total, found.off, found.empty)


def _points_of_csv(file: Path, spec: Points) -> gpd.GeoDataFrame:
    table = read_csv(file, [spec.x, spec.y, spec.column])
    try:
        x, y = table[spec.x].astype(float), table[spec.y].astype(float)
    except ValueError as error:
        raise DataError(f"{file}: {spec.x} and {spec.y} are not all numbers ({error}): correct the table") from None
    return gpd.GeoDataFrame(pd.DataFrame(table), geometry=gpd.points_from_xy(x, y))
