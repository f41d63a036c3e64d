"""Sentinel-2 L2A products as ESA delivers them (.SAFE), whole or trimmed to some of their files, unpacked or zipped."""

import re
import zipfile
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from cluemap.data.scenes.scene_file import Images
from cluemap.data.scenes.sources.granules import MASK, Granule, Layer, chosen
from cluemap.data.scenes.sources.packages import Package, find_packages
from cluemap.data.scenes.tables import listed
from cluemap.errors import DataError

# T32UQD_20180712T102031_B02_10m.jp2; until 2018 with L2A_ in front; without metres in L1C products
FILE = re.compile(r"(?:^|[_/])(T\d\d[A-Z]{3})_(\d{8}T\d{6})_(B\d[\dA]|SCL)(?:_(\d\d)m)?\.jp2$")
BASELINE, MADE = re.compile(r"_N(\d{4})_"), re.compile(r"_(\d{8}T\d{6})(?:\.SAFE)?$")
SHIFTED_SINCE = 400  # processing baseline 04.00: values are 1000 higher
QUANTIFICATION = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE")  # the second until baseline 02.06
BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")  # in the XML


class Meaning(NamedTuple):
    """What stored values of a product mean."""

    quantification: float
    offsets: dict[str, float] | None  # in stored values; None: the product does not say
    baseline: int  # 208 for 02.08; -1 where nothing says it


def find_safe(home: Path, images: Images, notes: list[str]) -> Iterator[Granule]:
    """The granules of every L2A product under `home`; what is left out goes to `notes`.

    Raises:
        DataError: an unreadable product, one without images, or L1C products alone.
    """
    packages = list(find_packages(home))
    raw = [package for package in packages if _is_l1c(package)]
    if raw:
        names = listed([package.name.name for package in raw], 3)
        if len(raw) == len(packages):
            raise DataError(f"{home} holds L1C products alone ({names}): fetch L2A, which is surface reflectance")
        notes.append(f"{len(raw)} L1C products are left out, they are no surface reflectance: {names}")
    for package in packages:
        if package not in raw:
            yield from _granules(package, images)


def _granules(package: Package, images: Images) -> Iterator[Granule]:
    found: dict[tuple[str, str], dict[str, tuple[int, str]]] = {}
    for member in package.members:
        match = FILE.search(member)
        if not match:
            continue  # quality masks, previews
        files = found.setdefault((match[1], match[2]), {})
        metres = int(match[4] or 10)
        if match[3] not in files or metres < files[match[3]][0]:
            files[match[3]] = (metres, member)
    if not found:
        raise DataError(
            f"{package.name} holds no image (T32UQD_20180712T102031_B02_10m.jp2 ...): fetch it again or remove it"
        )
    meaning, made = _meaning(package), MADE.search(package.name.stem)
    for (tile, sensing), files in found.items():
        layers = {
            band: chosen(images, _layer(package, member, band, meaning, images))
            for band, (_, member) in files.items()
            if band in images.bands
        }
        mask = package.layer(files[MASK][1]) if MASK in files and images.hide else None
        version = (meaning.baseline, made[1] if made else "")
        yield Granule(_day(package, sensing), tile, layers, mask, package.name, sensing, version)


def _layer(package: Package, member: str, band: str, meaning: Meaning, images: Images) -> Layer:
    if meaning.offsets is None and images.offset is None:
        raise DataError(
            f"{package.name} tells its processing baseline neither in its name (_N0510_) nor in MTD_MSIL2A.xml: set "
            "images.offset in scene.yaml (-0.1 from baseline 04.00 on, 25 January 2022, else 0)"
        )
    scale = 1 / meaning.quantification
    return package.layer(member).scaled(scale, (meaning.offsets or {}).get(band, 0.0) * scale)


def _day(package: Package, sensing: str) -> date:
    try:
        return datetime.strptime(sensing[:8], "%Y%m%d").date()
    except ValueError:
        raise DataError(f"{package.name}: {sensing} in the names of its images is no date: fetch it again") from None


def _is_l1c(package: Package) -> bool:
    """By its name or metadata; without both, by names of images that lack the metres that L2A's have."""
    if "_MSIL1C_" in package.name.name or package.member("MTD_MSIL1C.xml"):
        return True
    if "_MSIL2A_" in package.name.name or package.member("MTD_MSIL2A.xml"):
        return False
    images = [match for match in map(FILE.search, package.members) if match]
    return bool(images) and not any(match[4] for match in images)


def _meaning(package: Package) -> Meaning:
    """From the metadata, else from the product's name."""
    named = BASELINE.search(package.name.name)
    member = package.member("MTD_MSIL2A.xml")
    if member:
        return _described(package, member, int(named[1]) if named else -1)
    if not named:
        return Meaning(10000.0, None, -1)
    shift = -1000.0 if int(named[1]) >= SHIFTED_SINCE else 0.0
    return Meaning(10000.0, dict.fromkeys(BAND_IDS, shift), int(named[1]))


def _described(package: Package, member: str, baseline: int) -> Meaning:
    try:
        root = ElementTree.fromstring(package.read(member))
        quantification = next(float(one.text or "") for name in QUANTIFICATION for one in root.iter(name))
        added = {BAND_IDS[int(one.attrib["band_id"])]: float(one.text or "") for one in root.iter("BOA_ADD_OFFSET")}
        told = next((one.text or "" for one in root.iter("PROCESSING_BASELINE")), "")
        if not 0 < quantification < float("inf") or not all(abs(value) < 1e6 for value in added.values()):
            raise ValueError(f"quantification {quantification}, offsets {added}")
        return Meaning(quantification, added, int(told.replace(".", "")) if told else baseline)
    except StopIteration:
        raise DataError(
            f"{package.name}: {member} has none of {', '.join(QUANTIFICATION)}, so it is no metadata of an L2A "
            "product: fetch it again"
        ) from None
    except (ElementTree.ParseError, KeyError, IndexError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{package.name}: {member} is no metadata of an L2A product ({error}): fetch it again"
        ) from None
