"""Images as plain files: one file a date, or one folder a date with a file a band."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from cluemap.data.scenes.scene_file import NAME, Images
from cluemap.data.scenes.sources.granules import MASK, Granule, Layer, chosen
from cluemap.data.scenes.sources.image_dates import When, dated
from cluemap.errors import DataError

SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
TILE = re.compile(r"(?:^|[_.\-])(T\d\d[A-Z]{3})(?:[_.\-]|$)")  # of Sentinel-2's grid


def find_files(home: Path, images: Images, notes: list[str]) -> Iterator[Granule]:
    """One granule a file of `home`; where it holds none itself, of the folders below it."""
    paths = _images(home) or sorted(path for folder in _below(home) for path in _images(folder))
    for path, when in zip(paths, dated(home, images, paths), strict=True):
        names = images.file_bands or _descriptions(path)
        layers = {
            name: chosen(images, Layer(path, number), when.offset)
            for number, name in enumerate(names, 1)
            if name in images.bands
        }
        mask = Layer(path, names.index(MASK) + 1) if MASK in names and images.hide else None
        yield Granule(when.day, _tile(path), layers, mask, path)


def find_folders(home: Path, images: Images, notes: list[str]) -> Iterator[Granule]:
    """One granule a folder that holds images; empty ones are told of."""
    folders = [folder for folder in _below(home) if _images(folder)]
    tops = [path for path in sorted(home.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    empty = [top.name for top in tops if not any(folder.is_relative_to(top) for folder in folders)]
    if empty and folders:
        notes.append(f"{len(empty)} folders hold no images: {', '.join(empty[:3])}")
    for folder, when in zip(folders, dated(home, images, folders), strict=True):
        yield _of_folder(folder, when, images)


def _of_folder(folder: Path, when: When, images: Images) -> Granule:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in _images(folder):
        for band in [*images.bands, MASK]:
            if re.search(rf"(?:^|[_.\-]){re.escape(band)}(?:[_.\-]|$)", path.stem):
                found[band].append(path)
    double = next((band for band, files in found.items() if len(files) > 1), None)
    if double:
        raise DataError(
            f"{folder} holds band {double} twice: {found[double][0].name} and {found[double][1].name}; take one out"
        )
    layers = {band: chosen(images, Layer(found[band][0], 1), when.offset) for band in images.bands if band in found}
    mask = Layer(found[MASK][0], 1) if MASK in found and images.hide else None
    return Granule(when.day, _tile(folder), layers, mask, folder)


def _images(folder: Path) -> list[Path]:
    """Image files of a folder, without hidden ones (macOS leaves `._name` beside each on foreign disks)."""
    return sorted(
        path for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )  # fmt: skip


def _below(home: Path) -> list[Path]:
    """All folders below `home`, hidden ones and products left out."""
    found = []
    for path in sorted(home.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.suffix.upper() != ".SAFE":
            found += [path, *_below(path)]
    return found


def _tile(path: Path) -> str:
    named = TILE.search(path.stem)
    return named[1] if named else ""


def _descriptions(path: Path) -> list[str]:
    try:
        with rasterio.open(path) as file:
            names = list(file.descriptions)
    except (RasterioError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again, or take the date out") from None
    if not any(names):
        raise DataError(f"{path} does not name its {len(names)} bands: list them as images.file_bands in {NAME}")
    return [name or "" for name in names]
