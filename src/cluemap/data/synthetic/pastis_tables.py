"""The demo's tables in PASTIS's published form: metadata.geojson and NORM_S2_patch.json."""

from dataclasses import dataclass
from math import fsum, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform

# The published set's tiles, each with its UTM zone and a place within it for the first patch's upper left corner.
TILES = (
    ("t30uxv", "EPSG:32630", 640000.0, 5450000.0),
    ("t31tfj", "EPSG:32631", 640000.0, 4850000.0),
    ("t31tfm", "EPSG:32631", 640000.0, 5150000.0),
    ("t32ulu", "EPSG:32632", 340000.0, 5350000.0),
)
PUBLISHED_CRS = 2154  # EPSG: Lambert-93, in which the published outlines are (patches follow their tile's UTM grid)
SPACING = 3840.0  # metres between neighbouring patches' corners: their lands do not continue each other
FOLDS = 5


@dataclass(frozen=True)
class Record:
    """What the tables of the data set say about one patch."""

    number: int  # ID_PATCH
    fold: int
    tile: int
    place: int  # of the patch among its tile's
    dates: list[int]  # yyyymmdd
    parcels: int
    cover: float  # share of the patch within parcels
    mean: list[float]  # c
    deviation: list[float]  # c


def moments(images: NDArray[np.int16]) -> tuple[list[float], list[float]]:
    """t c h w -> mean and deviation of each band, no-data included as published; from exact sums, the same anywhere."""
    means, deviations = [], []
    for band in range(images.shape[1]):
        values = images[:, band].astype(np.int64)
        count, total, squares = values.size, int(values.sum()), int((values * values).sum())
        means.append(total / count)
        deviations.append(sqrt(count * squares - total * total) / count)
    return means, deviations


def statistics(records: list[Record]) -> dict[str, Any]:
    """Per fold the mean over its patches of their means and deviations, as published."""
    result = {}
    for fold in range(1, FOLDS + 1):
        chosen = [record for record in records if record.fold == fold]
        average = [
            [round(fsum(values) / len(chosen), 6) for values in zip(*rows, strict=True)]
            for rows in ([record.mean for record in chosen], [record.deviation for record in chosen])
        ]
        result[f"Fold_{fold}"] = {"mean": average[0], "std": average[1]}
    return result


def metadata(records: list[Record], size: int) -> dict[str, Any]:
    """-> the GeoJSON collection, one square of `size` pixels for each patch; the "crs" member comes last."""
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{PUBLISHED_CRS}"}}
    return {"type": "FeatureCollection", "features": [_feature(record, size) for record in records], "crs": crs}


def _feature(record: Record, size: int) -> dict[str, Any]:
    name, zone, x, y = TILES[record.tile]
    west, north = x + SPACING * (record.place % 4), y - SPACING * (record.place // 4)
    east, south = west + 10.0 * size, north - 10.0 * size
    xs, ys = transform(
        zone, f"EPSG:{PUBLISHED_CRS}", [west, east, east, west, west], [north, north, south, south, north]
    )
    ring = [[round(x, 3), round(y, 3)] for x, y in zip(xs, ys, strict=True)]  # whole mm: the same on any machine
    properties = {
        "Fold": record.fold, "ID_PATCH": record.number, "N_Parcel": record.parcels, "Parcel_Cover": record.cover,
        "TILE": name, "dates-S2": {str(row): date for row, date in enumerate(record.dates)},
    }  # fmt: skip
    geometry = {"type": "MultiPolygon", "coordinates": [[ring]]}
    return {"id": str(record.number), "type": "Feature", "properties": properties, "geometry": geometry}
