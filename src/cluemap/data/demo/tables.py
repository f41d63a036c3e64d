"""The demo's tables in PASTIS's published form: metadata.geojson and NORM_S2_patch.json."""

from dataclasses import dataclass
from math import fsum, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The published set's tiles and, as EPSG:2154 metres, a place within each for the first patch's upper left corner.
TILES = (
    ("t30uxv", 391500.0, 6956800.0),
    ("t31tfj", 846000.0, 6312000.0),
    ("t31tfm", 860000.0, 6610000.0),
    ("t32ulu", 1020000.0, 6850000.0),
)
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
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    return {"type": "FeatureCollection", "features": [_feature(record, size) for record in records], "crs": crs}


def _feature(record: Record, size: int) -> dict[str, Any]:
    name, x, y = TILES[record.tile]
    west, north = x + SPACING * (record.place % 4), y - SPACING * (record.place // 4)
    east, south = west + 10.0 * size, north - 10.0 * size
    ring = [[west, north], [east, north], [east, south], [west, south], [west, north]]
    properties = {
        "Fold": record.fold, "ID_PATCH": record.number, "N_Parcel": record.parcels, "Parcel_Cover": record.cover,
        "TILE": name, "dates-S2": {str(row): date for row, date in enumerate(record.dates)},
    }  # fmt: skip
    geometry = {"type": "MultiPolygon", "coordinates": [[ring]]}
    return {"id": str(record.number), "type": "Feature", "properties": properties, "geometry": geometry}
