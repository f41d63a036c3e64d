"""A stratified random sample of a map's pixels, to be labelled in QGIS: what src/draw_sample.py does."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from cluemap.errors import DataError
from cluemap.files import atomic
from cluemap.mapping.postprocessing.class_map import ClassMap
from cluemap.statistics.sample_allocation import allocate

REFERENCE = "reference"  # the column that the interpreter fills in
STRATUM, SIZE, DRAWN = "stratum", "stratum_pixels", "stratum_drawn"  # what makes it a probability sample
LAYER = "sample"  # of the GeoPackage, beside the pixels' outlines
WGS84 = "EPSG:4326"
DIGITS = 8  # of degrees: a millimetre


def draw_sample(source: ClassMap, total: int, minimum: int | None = None, seed: int = 0) -> gpd.GeoDataFrame:
    """`total` pixels of the map, drawn at random without replacement within each class, in random order.

    Columns: id, stratum (number of the map's class), stratum_pixels and stratum_drawn (N and n of the stratum),
    inclusion_probability (n / N), lon and lat (of the pixel's centre), reference (empty). The class's name is left out:
    who labels should not see what the map says.

    Raises:
        DataError: an impossible size, or a map without data.
    """
    strata = np.flatnonzero(source.counts)
    if not len(strata):
        raise DataError(f"{source.file} holds no data: give a map with classes")
    sizes = source.counts[strata]
    drawn = allocate(sizes, total, minimum)
    generator = np.random.default_rng(seed)
    ranks = {
        int(number): np.sort(generator.choice(int(size), int(n), replace=False, shuffle=False))
        for number, size, n in zip(strata, sizes, drawn, strict=True)
    }
    rows, columns, values = _pixels_of(source, ranks)
    order = generator.permutation(total)
    rows, columns, values = rows[order], columns[order], values[order]
    place = np.searchsorted(strata, values)
    table = pd.DataFrame({"id": np.arange(1, total + 1), STRATUM: values.astype(np.int64)})
    table[SIZE], table[DRAWN] = sizes[place], drawn[place]
    table["inclusion_probability"] = drawn[place] / sizes[place]
    points = gpd.GeoDataFrame(table, geometry=gpd.points_from_xy(*source.places(rows, columns)), crs=_crs(source))
    degrees = points.geometry.to_crs(WGS84)
    points["lon"], points["lat"] = degrees.x.round(DIGITS), degrees.y.round(DIGITS)
    points[REFERENCE] = ""
    return points


def _pixels_of(source: ClassMap, ranks: dict[int, NDArray[np.int64]]) -> tuple[NDArray, NDArray, NDArray]:
    """Class -> ascending numbers of its pixels (counted row by row) -> their rows, columns and classes."""
    rows, columns, values = [], [], []
    passed = dict.fromkeys(ranks, 0)
    for top, strip in source.strips():
        flat = strip.ravel()
        counts = np.bincount(flat, minlength=256)
        for number, wanted in ranks.items():
            first, last = np.searchsorted(wanted, [passed[number], passed[number] + counts[number]])
            if last > first:
                places = np.flatnonzero(flat == number)[wanted[first:last] - passed[number]]
                rows.append(top + places // source.width)
                columns.append(places % source.width)
                values.append(np.full(last - first, number))
            passed[number] += int(counts[number])
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)


def write_sample(out: Path, sample: gpd.GeoDataFrame, source: ClassMap) -> list[Path]:
    """Write `out` (.gpkg: layer `sample`, and layer `pixels` with their outlines) and the same table as .csv.

    Raises:
        DataError: another ending, or labels in the file that would be lost.
    """
    if out.suffix.lower() != ".gpkg":
        raise DataError(f"--out {out}: give the sample's file, ending in .gpkg")
    for path in (out, out.with_suffix(".csv")):
        if path.exists():
            raise DataError(f"{path} exists and may hold labels: move it away, or give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    outlines = sample[["id"]].set_geometry(_outlines(sample, source)).set_crs(sample.crs)
    with TemporaryDirectory(dir=out.parent) as folder:  # GDAL wants the file's true ending
        temporary = Path(folder) / out.name
        sample.to_file(temporary, driver="GPKG", layer=LAYER)
        outlines.to_file(temporary, driver="GPKG", layer="pixels", mode="a")
        os.replace(temporary, out)
    table = pd.DataFrame(sample.drop(columns="geometry"))
    with atomic(out.with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False)
    return [out, out.with_suffix(".csv")]


def _outlines(sample: gpd.GeoDataFrame, source: ClassMap) -> NDArray:
    x, y = sample.geometry.x.to_numpy(), sample.geometry.y.to_numpy()
    half = abs(source.transform.a) / 2, abs(source.transform.e) / 2
    return np.asarray(shapely.box(x - half[0], y - half[1], x + half[0], y + half[1]))


def _crs(source: ClassMap) -> CRS:
    source.hectares_per_pixel  # noqa: B018 - refuses maps in degrees before anybody labels them
    return CRS.from_wkt(source.crs.to_wkt())
