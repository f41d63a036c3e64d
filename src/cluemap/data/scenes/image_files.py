"""Which files make up which date: SAFE products, one file a date, one folder a date."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import rasterio
from rasterio.errors import RasterioError

from cluemap.data.scenes.safe_product import Scaling, find_safe
from cluemap.data.scenes.scene_file import NAME, Images, nearest, read_csv
from cluemap.errors import DataError

SCALE = 0.0001  # reflectance of stored value 1, where nothing else is said
MASK = "SCL"  # scene classification of L2A products
SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(\d\d)\2(\d\d)(?!\d)")


@dataclass(frozen=True)
class Layer:
    """One band of one file, and what its values mean: reflectance = value * scale + offset."""

    path: Path
    number: int  # band within the file, from 1
    scale: float = SCALE
    offset: float = 0.0
    nodata: float | None = None  # None: what the file says, else 0


@dataclass(frozen=True)
class Granule:
    """What was seen of one tile on one date."""

    day: date
    tile: str  # "" where the region is no mosaic of Sentinel-2 tiles
    bands: dict[str, Layer]
    mask: Layer | None
    name: Path = field(compare=False)  # for messages


class When(NamedTuple):
    """What a name or a line of the table of dates says about a file or folder."""

    day: date
    offset: float | None = None  # of its reflectance, where the table has it


def find_granules(folder: Path, images: Images) -> list[Granule]:
    """All granules by date, then tile; nothing of the images themselves is read.

    Raises:
        DataError: none there, a band missing, a date that cannot be told, or the same date twice.
    """
    home = folder / images.path
    if not home.is_dir():
        raise DataError(
            f"{home} is no folder: images.path in {folder / NAME} should name the one that holds the images"
        )
    finders = {"safe": _safe, "files": _files, "folders": _folders}
    found = sorted(finders[images.kind](home, images), key=lambda one: (one.day, one.tile))
    if not found:
        kinds = {"safe": "*.SAFE products", "files": "one image file per date", "folders": "one folder per date"}
        raise DataError(f"{home} holds no images of kind {images.kind} ({kinds[images.kind]}): mend images in {NAME}")
    for one, other in pairwise(found):
        if (one.day, one.tile) == (other.day, other.tile):
            raise DataError(
                f"the date {one.day} comes twice: {one.name} and {other.name}; take one of them out of {home}"
            )
    return found


def _safe(home: Path, images: Images) -> list[Granule]:
    granules = []
    for product in find_safe(home):
        layers = {
            band: _layer(images, path, 1, product.scaling(band, images.offset is None))
            for band, path in product.files.items()
            if band in images.bands
        }
        _complete(images, layers, product.name, sorted(product.files))
        mask = Layer(product.files[MASK], 1) if MASK in product.files and images.hide else None
        granules.append(Granule(product.day, product.tile, layers, mask, product.name))
    return granules


def _files(home: Path, images: Images) -> list[Granule]:
    paths = sorted(path for path in home.iterdir() if path.suffix.lower() in SUFFIXES)
    granules = []
    for path, when in zip(paths, _dated(home, images, paths), strict=True):
        names = images.file_bands or _descriptions(path)
        product = Scaling(SCALE, when.offset or 0.0)
        layers = {
            name: _layer(images, path, number, product) for number, name in enumerate(names, 1) if name in images.bands
        }
        _complete(images, layers, path, names)
        mask = Layer(path, names.index(MASK) + 1) if MASK in names and images.hide else None
        granules.append(Granule(when.day, "", layers, mask, path))
    return granules


def _folders(home: Path, images: Images) -> list[Granule]:
    folders = sorted(path for path in home.iterdir() if path.is_dir() and not path.name.startswith("."))
    granules = []
    for folder, when in zip(folders, _dated(home, images, folders), strict=True):
        product = Scaling(SCALE, when.offset or 0.0)
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        found: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            for band in [*images.bands, MASK]:
                if re.search(rf"(?:^|[_.\-]){re.escape(band)}(?:[_.\-]|$)", path.stem):
                    found[band].append(path)
        double = next((band for band, files in found.items() if len(files) > 1), None)
        if double:
            raise DataError(f"{folder} holds band {double} twice: {found[double][0].name} and {found[double][1].name}")
        layers = {band: _layer(images, found[band][0], 1, product) for band in images.bands if band in found}
        _complete(images, layers, folder, [path.name for path in paths])
        mask = Layer(found[MASK][0], 1) if MASK in found and images.hide else None
        granules.append(Granule(when.day, "", layers, mask, folder))
    return granules


def _layer(images: Images, path: Path, number: int, product: Scaling) -> Layer:
    """What `images` says of the scaling comes first, what the product says second."""
    scale = product.scale if images.scale is None else images.scale
    return Layer(path, number, scale, product.offset if images.offset is None else images.offset, images.nodata)


def _complete(images: Images, layers: dict[str, Layer], name: Path, there: list[str]) -> None:
    missing = [band for band in images.bands if band not in layers]
    if missing:
        raise DataError(
            f"{name} lacks band {', '.join(missing)} (it has {', '.join(there) or 'none'}): fetch the band, take the "
            f"date out, or mend images.bands (and images.file_bands) in {NAME}"
        )


def _descriptions(path: Path) -> list[str]:
    try:
        with rasterio.open(path) as file:
            names = list(file.descriptions)
    except RasterioError as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again, or take the date out") from None
    if not any(names):
        raise DataError(f"{path} does not name its {len(names)} bands: list them as images.file_bands in {NAME}")
    return [name or "" for name in names]


def _dated(home: Path, images: Images, paths: list[Path]) -> list[When]:
    """The date of each file or folder, from its name or from the table."""
    if images.dates == "names":
        return [When(date_in(path)) for path in paths]
    table = home.parent / images.dates if (home.parent / images.dates).exists() else home / images.dates
    rows = read_csv(table, ["file", "date"])
    written = dict(zip(rows["file"], rows.to_dict("records"), strict=True))
    for path in paths:
        if path.name not in written:
            raise DataError(
                f"{table} has no date for {path.name}{nearest(path.name, list(written))}: add a line for it"
            )
    return [_line(written[path.name], table) for path in paths]


def _line(row: dict[str, str], table: Path) -> When:
    try:
        offset = float(row["offset"]) if row.get("offset") else None
    except ValueError:
        raise DataError(f"{table}: the offset {row['offset']!r} of {row['file']} is no number (like -0.1)") from None
    return When(_parsed(row["date"], table), offset)


def date_in(path: Path) -> date:
    """The first date YYYYMMDD (or with -, _ or . between) in a name; raises DataError where there is none."""
    return _parsed(path.name, path)


def _parsed(text: str, where: Path) -> date:
    for found in DAY.finditer(text):
        try:
            return date(int(found[1]), int(found[3]), int(found[4]))
        except ValueError:  # 20181399: some other number
            continue
    raise DataError(
        f"{where}: {text!r} holds no date like 2018-07-12 or 20180712: rename it, or give a table (CSV: file, date) as "
        f"images.dates in {NAME}"
    )
