"""Sentinel-2 L2A products as ESA delivers them (.SAFE), whole or trimmed to some of their files."""

import re
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from cluemap.errors import DataError

# T32UQD_20180712T102031_B02_10m.jp2; before 2018 with L2A_ in front
FILE = re.compile(r"(?:^|_)(T\d\d[A-Z]{3})_(\d{8})T\d{6}_(B\d[\dA]|SCL)(?:_(\d\d)m)?\.jp2$")
BASELINE = re.compile(r"_N(\d{4})_")
SHIFTED_SINCE = 400  # processing baseline 04.00: values are 1000 higher
BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")  # in the XML


class Scaling(NamedTuple):
    """reflectance = value * scale + offset"""

    scale: float
    offset: float


class Product(NamedTuple):
    name: Path
    day: date
    tile: str
    files: dict[str, Path]  # band -> its finest file
    quantification: float
    offsets: dict[str, float] | None  # in stored values; None: the product does not say

    def scaling(self, band: str, offset_wanted: bool) -> Scaling:
        """What a stored value means; raises DataError where an offset is wanted and the product does not say."""
        if self.offsets is None and offset_wanted:
            raise DataError(
                f"{self.name} tells its processing baseline neither in its name (_N0510_) nor in MTD_MSIL2A.xml: set "
                "images.offset in scene.yaml (-0.1 from baseline 04.00 on, 25 January 2022, else 0)"
            )
        return Scaling(1 / self.quantification, (self.offsets or {}).get(band, 0.0) / self.quantification)


def find_safe(home: Path) -> Iterator[Product]:
    """Every *.SAFE folder under `home` (or `home` itself); raises DataError for one without images."""
    folders = [home] if home.suffix.upper() == ".SAFE" else sorted(home.glob("*.SAFE"))
    for folder in folders:
        yield from _products(folder)


def _products(folder: Path) -> Iterator[Product]:
    granules: dict[tuple[str, str], dict[str, tuple[int, Path]]] = {}
    for path in sorted(folder.rglob("*.jp2")):
        found = FILE.search(path.name)
        if not found:
            continue  # quality masks, previews
        tile, day, band = found[1], found[2], found[3]
        metres = int(found[4] or 10)
        files = granules.setdefault((tile, day), {})
        if band not in files or metres < files[band][0]:
            files[band] = (metres, path)
    if not granules:
        raise DataError(
            f"{folder} holds no image (T32UQD_20180712T102031_B02_10m.jp2 ...): fetch it again or remove it"
        )
    quantification, offsets = _meaning(folder)
    for (tile, day), files in granules.items():
        when = datetime.strptime(day, "%Y%m%d").date()
        yield Product(folder, when, tile, {band: path for band, (_, path) in files.items()}, quantification, offsets)


def _meaning(folder: Path) -> tuple[float, dict[str, float] | None]:
    """-> BOA_QUANTIFICATION_VALUE, BOA_ADD_OFFSET by band; from the metadata, else from the folder's name."""
    metadata = folder / "MTD_MSIL2A.xml"
    if metadata.exists():
        try:
            root = ElementTree.parse(metadata).getroot()
            quantification = float(next(root.iter("BOA_QUANTIFICATION_VALUE")).text or "")
            added = {BAND_IDS[int(one.attrib["band_id"])]: float(one.text or "") for one in root.iter("BOA_ADD_OFFSET")}
        except (ElementTree.ParseError, StopIteration, KeyError, IndexError, ValueError) as error:
            raise DataError(f"{metadata} is no metadata of an L2A product ({error!r}): fetch it again") from None
        return quantification, added
    baseline = BASELINE.search(folder.name)
    if not baseline:
        return 10000.0, None
    shift = -1000.0 if int(baseline[1]) >= SHIFTED_SINCE else 0.0
    return 10000.0, dict.fromkeys(BAND_IDS, shift)
