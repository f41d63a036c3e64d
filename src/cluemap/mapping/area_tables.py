"""How much of what: hectares per crop over the map, and the tables' files."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pandas as pd

from cluemap.data.patches import VOID, Legend
from cluemap.data.scenes.grid import Grid
from cluemap.files import atomic
from cluemap.mapping.geotiff import entries
from cluemap.mapping.map_canvas import CLASSES, CONFIDENCE, Canvas
from cluemap.mapping.parcels.parcels import SQUARE_METRES, write_geopackage

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


def write_tables(out: Path, table: pd.DataFrame, parcels: gpd.GeoDataFrame | None) -> list[Path]:
    """Write `<map>_hectares.csv`, and `<map>_parcels.csv` and `.gpkg` where there are parcels; returns the files."""
    files = [out.with_name(f"{out.stem}_hectares.csv")]
    with atomic(files[0]) as temporary:
        table.to_csv(temporary, index=False)
    return files if parcels is None else files + write_parcels(out.with_name(f"{out.stem}_parcels.gpkg"), parcels)


def write_parcels(file: Path, parcels: gpd.GeoDataFrame) -> list[Path]:
    """Write parcels as CSV (without their outlines) and GeoPackage (`file`); returns the files."""
    table = file.with_suffix(".csv")
    with atomic(table) as temporary:
        pd.DataFrame(parcels.drop(columns=parcels.geometry.name)).to_csv(temporary, index=False)
    with TemporaryDirectory(dir=file.parent) as folder:  # GDAL wants the file's true ending
        temporary = Path(folder) / file.name
        write_geopackage(parcels, temporary)
        os.replace(temporary, file)
    return [table, file]
