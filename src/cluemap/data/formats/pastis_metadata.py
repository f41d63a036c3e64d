"""metadata.geojson of published PASTIS: fold, tile, dates and place of every patch."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform

from cluemap.errors import DataError
from cluemap.files import read_json

PUBLISHED_CRS = "EPSG:2154"
ALIGNED = 0.05  # metres that an outline may leave the axes and still be taken for aligned


@dataclass(frozen=True)
class Place:
    """Where a square patch lies on a grid that its pixels follow."""

    corner: tuple[float, float]  # x, y of the upper-left corner, metres
    crs: str
    side: float  # metres


@dataclass(frozen=True, eq=False)
class Entry:
    """One patch of metadata.geojson."""

    name: str
    fold: int
    tile: str
    dates: Any  # {"0": 20180924, ...}, as a dict or as JSON text; None if absent
    outline: NDArray[np.float64]  # corners x, y
    place: Place | None = None  # None: the outline is no square along the axes of a known grid


def read_metadata(path: Path) -> dict[str, Entry]:
    """Every patch by name, in the order of ID_PATCH.

    Raises:
        DataError: not a metadata.geojson of PASTIS, a patch without a fold, or one that comes twice.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("features"), list) or not content["features"]:
        raise DataError(f"{path} is no FeatureCollection with patches: fetch the published metadata.geojson again")
    entries: dict[str, Entry] = {}
    for number, feature in enumerate(content["features"]):
        entry = _entry(path, number, feature)
        if entry.name in entries:
            raise DataError(f"{path} holds patch {entry.name} twice: take one of the two out")
        entries[entry.name] = entry
    ordered = sorted(entries.values(), key=lambda entry: int(entry.name))
    return {entry.name: entry for entry in _placed(ordered, _crs(content))}


def days_of_year(path: Path, entry: Entry) -> NDArray[np.int16]:
    """t: the day of year of every date of a patch, in the order of the images.

    Raises:
        DataError: the patch has no dates, or one of them is no date.
    """
    return np.array([date.timetuple().tm_yday for date in _dates(path, entry)], np.int16)


def year_of(path: Path, entry: Entry) -> int | None:
    """The year of the middle date of a patch: that of the harvest, where a series runs from autumn to autumn. None
    where the file has no dates. Raises as `days_of_year` for damaged ones.
    """
    if entry.dates is None:
        return None
    dates = _dates(path, entry)
    return dates[len(dates) // 2].year


def _dates(path: Path, entry: Entry) -> list[datetime]:
    dates = entry.dates
    if isinstance(dates, str):
        try:
            dates = json.loads(dates)
        except json.JSONDecodeError:
            raise DataError(f'{path}: "dates-S2" of patch {entry.name} is not JSON: {dates[:60]!r}') from None
    if not isinstance(dates, dict) or not dates:
        raise DataError(f'{path}: patch {entry.name} has no "dates-S2" ({dates!r}): fetch the published file again')
    try:
        return [datetime.strptime(str(dates[key]), "%Y%m%d") for key in sorted(dates, key=int)]
    except ValueError as error:
        raise DataError(f'{path}: "dates-S2" of patch {entry.name} holds no date YYYYMMDD: {error}') from None


def _entry(path: Path, number: int, feature: Any) -> Entry:
    try:
        found = feature["properties"]
        name, fold, tile = str(int(found["ID_PATCH"])), int(found["Fold"]), str(found.get("TILE", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: feature {number} has no whole number ID_PATCH and Fold ({error!r}): fetch the file again"
        ) from None
    if fold not in range(1, 6):
        raise DataError(f"{path}: patch {name} is in fold {fold}, not 1 to 5: mend its Fold")
    return Entry(name, fold, tile, found.get("dates-S2"), _outline(feature.get("geometry")))


def _outline(geometry: Any) -> NDArray[np.float64]:
    coordinates = geometry.get("coordinates") if isinstance(geometry, dict) else None
    try:
        return np.array(coordinates, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):  # no outline, or one of several rings: a patch is a single square
        return np.empty((0, 2))


def _crs(content: dict[str, Any]) -> str:
    code = re.search(r"EPSG\W+(\d+)", json.dumps(content.get("crs")))
    return f"EPSG:{code[1]}" if code else PUBLISHED_CRS


def _placed(entries: Sequence[Entry], crs: str) -> list[Entry]:
    """Give every patch its place. Published outlines are squares of the tile's UTM grid, turned by some degrees in
    EPSG:2154; so UTM comes first, the file's own CRS second."""
    places = [_aligned(entry.outline, crs) for entry in entries]
    for zone in {_utm(entry.tile) for entry in entries} - {None}:
        rows = [i for i, entry in enumerate(entries) if _utm(entry.tile) == zone and len(entry.outline)]
        if not rows:
            continue
        outlines = [entries[i].outline for i in rows]
        together = np.concatenate(outlines)
        try:
            x, y = transform(crs, zone, together[:, 0], together[:, 1])
        except (RasterioError, CPLE_BaseError, ValueError):  # no CRS, or not the outlines': maps carry no place
            continue
        ends = np.cumsum([len(outline) for outline in outlines])[:-1]
        for i, outline in zip(rows, np.split(np.stack([x, y], axis=1), ends), strict=True):
            places[i] = _aligned(outline, str(zone)) or places[i]
    return [replace(entry, place=place) for entry, place in zip(entries, places, strict=True)]


def _aligned(outline: NDArray[np.float64], crs: str) -> Place | None:
    """The place of a square whose sides run along the axes, else None."""
    if not len(outline):
        return None
    low, high = outline.min(axis=0), outline.max(axis=0)
    away = np.minimum(outline - low, high - outline).max()  # of any corner from the bounds
    width, height = high - low
    if not np.isfinite(outline).all() or away > ALIGNED or abs(width - height) > ALIGNED or width <= 0:
        return None
    return Place((round(float(low[0]), 3), round(float(high[1]), 3)), crs, round(float(width), 3))


def _utm(tile: str) -> str | None:
    """t30uxv -> EPSG:32630: the UTM zone and hemisphere that a Sentinel-2 tile's name begins with."""
    found = re.fullmatch(r"[tT]?(\d\d)([c-xC-X])\w*", tile)
    return f"EPSG:{'326' if found[2].lower() >= 'n' else '327'}{found[1]}" if found else None
