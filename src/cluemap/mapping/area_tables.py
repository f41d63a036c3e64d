"""How much of what: hectares per crop over the map, and per parcel."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from cluemap.data.patches import VOID, Legend
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.labels import Shapes
from cluemap.data.scenes.vector_files import VectorFile, read_features
from cluemap.files import atomic
from cluemap.mapping.geotiff import entries
from cluemap.mapping.map_canvas import CLASSES, CONFIDENCE, Canvas

SQUARE_METRES = 10_000  # a hectare
IDS = 256


def hectares(canvas: Canvas, grid: Grid, legend: Legend) -> pd.DataFrame:
    """One row a class: pixels, hectares, share of the seen land, mean confidence (percent); the unseen land last."""
    counts, sums = np.zeros(IDS, np.int64), np.zeros(IDS, np.int64)
    for _, strip in canvas.strips():
        classes = strip[CLASSES].ravel()
        counts += np.bincount(classes, minlength=IDS)
        sums += np.bincount(classes, strip[CONFIDENCE].ravel(), minlength=IDS).astype(np.int64)
    rows = [(number, name) for number, name, _ in entries(legend)]
    numbers = np.array([number for number, _ in rows])
    seen = max(1, int(counts[numbers].sum()))
    table = pd.DataFrame(rows, columns=["id", "class"])
    table["pixels"] = counts[numbers]
    table["hectares"] = (counts[numbers] * grid.pixel**2 / SQUARE_METRES).round(2)
    table["share"] = (counts[numbers] / seen).round(5)
    table["confidence"] = (sums[numbers] / np.maximum(counts[numbers], 1)).round(1)
    unseen = {"id": VOID, "class": "no data", "pixels": counts[VOID], "share": 0.0, "confidence": 0.0}
    unseen["hectares"] = round(counts[VOID] * grid.pixel**2 / SQUARE_METRES, 2)
    return pd.concat([table, pd.DataFrame([unseen])], ignore_index=True)[list(table.columns)]


def read_parcels(file: Path, grid: Grid) -> gpd.GeoDataFrame:
    """The parcels that lie on the map, in its CRS; raises DataError: no such file, no CRS, nothing on the map."""
    return read_features(VectorFile(file), grid).table


def per_parcel(canvas: Canvas, grid: Grid, legend: Legend, table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Every parcel of `table` with majority class, its share, the mean confidence and hectares per class."""
    ids = len(legend.classes) + 1
    shapes = Shapes(shapely.STRtree(table.geometry.values), np.arange(len(table), dtype=np.int32))
    counts, sums = np.zeros((len(table), ids), np.int64), np.zeros(len(table))
    for rows, strip in canvas.strips():
        numbers = shapes.draw(grid.cut(rows, slice(0, grid.width)), -1, np.int32).ravel()
        classes = strip[CLASSES].ravel()
        here = (numbers >= 0) & (classes != VOID)
        pairs = numbers[here].astype(np.int64) * ids + classes[here]
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
        sums += np.bincount(numbers[here], strip[CONFIDENCE].ravel()[here], minlength=len(table))
    return _described(table, counts, sums, grid, legend)


def _described(
    table: gpd.GeoDataFrame, counts: NDArray[np.int64], sums: NDArray, grid: Grid, legend: Legend
) -> gpd.GeoDataFrame:
    total = counts.sum(axis=1)
    names = {number: name for number, name, _ in entries(legend)}
    winner = counts.argmax(axis=1)
    table["majority"] = [names[number] if pixels else None for number, pixels in zip(winner, total, strict=True)]
    table["majority_share"] = (counts.max(axis=1) / np.maximum(total, 1)).round(4)
    table["confidence"] = (sums / np.maximum(total, 1)).round(1)
    table["pixels"] = total
    for number, name in names.items():
        table[f"ha {name}"] = (counts[:, number] * grid.pixel**2 / SQUARE_METRES).round(3)
    return table


def write_tables(out: Path, table: pd.DataFrame, parcels: gpd.GeoDataFrame | None) -> list[Path]:
    """Write `<map>_hectares.csv`, and `<map>_parcels.csv` and `.gpkg` where there are parcels; returns the files."""
    files = [out.with_name(f"{out.stem}_hectares.csv")]
    with atomic(files[0]) as temporary:
        table.to_csv(temporary, index=False)
    if parcels is not None:
        files += [out.with_name(f"{out.stem}_parcels.csv"), out.with_name(f"{out.stem}_parcels.gpkg")]
        with atomic(files[1]) as temporary:
            pd.DataFrame(parcels.drop(columns=parcels.geometry.name)).to_csv(temporary, index=False)
        with TemporaryDirectory(dir=out.parent) as folder:  # GDAL wants the file's true ending
            temporary = Path(folder) / files[2].name
            parcels.drop(columns="fid", errors="ignore").to_file(temporary, driver="GPKG", layer="parcels")
            os.replace(temporary, files[2])
    return files
