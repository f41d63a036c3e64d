"""A written map as polygons, one for each connected patch of a class: what src/vectorise_map.py does."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from pyproj import CRS
from rasterio.features import shapes

from cluemap.errors import DataError
from cluemap.mapping.postprocessing.class_map import ClassMap
from cluemap.mapping.postprocessing.smoothing import CONNECTED

BACKGROUND = 0
ENDINGS = (".gpkg", ".parquet")


def field_polygons(
    source: ClassMap, minimum: float = 0.0, simplify: float = 0.0, background: bool = False
) -> gpd.GeoDataFrame:
    """Columns id, class_id, class, hectares. GDAL goes through the file line by line, so memory goes with the polygons.

    Patches under `minimum` hectares are left out. `simplify` straightens borders by up to so many units of the CRS
    (metres), shared borders alike on both sides, so that no gaps arise. Fields of one class that touch are one polygon.

    Raises:
        DataError: nothing is left.
    """
    pixel = source.hectares_per_pixel
    with rasterio.open(source.file) as file:
        found = [
            (int(value), shapely.geometry.shape(shape))
            for shape, value in shapes(rasterio.band(file, 1), connectivity=CONNECTED, transform=source.transform)
            if int(value) != source.void and (background or int(value) != BACKGROUND)
        ]
    ids = np.array([value for value, _ in found], np.int64)
    geometry = np.array([shape for _, shape in found], object)
    hectares = shapely.area(geometry) / (abs(source.transform.determinant) / pixel)
    kept = hectares >= minimum - 1e-9
    if not kept.any():
        raise DataError(f"{source.file} has no patch of {minimum:g} ha or more: lower --minimum")
    ids, geometry, hectares = ids[kept], geometry[kept], hectares[kept]
    if simplify:
        geometry = shapely.coverage_simplify(geometry, simplify)
        hectares = shapely.area(geometry) / (abs(source.transform.determinant) / pixel)
    table = {"id": np.arange(1, len(ids) + 1), "class_id": ids}
    names = [source.names.get(int(number), str(number)) for number in ids]
    return gpd.GeoDataFrame(
        {**table, "class": names, "hectares": hectares.round(4)}, geometry=geometry,
        crs=CRS.from_wkt(source.crs.to_wkt()),
    )  # fmt: skip


def check_ending(out: Path) -> None:
    """Raises DataError for a format that is not written."""
    if out.suffix.lower() not in ENDINGS:
        raise DataError(f"--out {out}: give a file that ends in {' or '.join(ENDINGS)}")


def write_polygons(out: Path, polygons: gpd.GeoDataFrame) -> Path:
    """Write GeoPackage (layer `fields`) or GeoParquet, by the ending."""
    check_ending(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as folder:  # GDAL wants the file's true ending
        temporary = Path(folder) / out.name
        if out.suffix.lower() == ".parquet":
            polygons.to_parquet(temporary, write_covering_bbox=True)
        else:
            polygons.to_file(temporary, driver="GPKG", layer="fields")
        os.replace(temporary, out)
    return out
