"""All images of a scene, whatever their kind."""

from collections.abc import Callable, Iterator
from pathlib import Path

from cluemap.data.scenes.scene_file import NAME, Images
from cluemap.data.scenes.sources.cubes import find_dates
from cluemap.data.scenes.sources.granules import Granule, check_bands
from cluemap.data.scenes.sources.image_files import find_files, find_folders
from cluemap.data.scenes.sources.safe_products import find_safe
from cluemap.data.scenes.sources.same_day import joined
from cluemap.data.scenes.sources.stac_items import find_items
from cluemap.errors import DataError

Finder = Callable[[Path, Images, list[str]], Iterator[Granule]]
FINDERS: dict[str, Finder] = {
    "safe": find_safe, "files": find_files, "folders": find_folders, "stac": find_items, "cube": find_dates,
}  # fmt: skip
KINDS = {
    "safe": "*.SAFE products, unpacked or zipped",
    "files": "one image file per date",
    "folders": "one folder per date",
    "stac": "a JSON file of items",
    "cube": "NetCDF or Zarr",
}
SEASON = 365  # days


def find_granules(folder: Path, images: Images) -> tuple[list[Granule], list[str]]:
    """All granules by date, then tile, and what is to be said of them (dates left out, bands that are missing).

    Raises:
        DataError: none there, a band that none has, a date that cannot be told, or the same image twice.
    """
    home, notes = folder / images.path, list[str]()
    if not (home.exists() if images.kind in ("stac", "cube") else home.is_dir()):
        raise DataError(
            f"{home} is no folder or file: images.path in {folder / NAME} should name what holds the images"
        )
    found = _of_season(list(FINDERS[images.kind](home, images, notes)), images, notes)
    if not found:
        raise DataError(
            f"{home} holds no images of kind {images.kind} ({KINDS[images.kind]}): correct images in {NAME}"
        )
    notes += check_bands(images, found)
    return joined(found, home, notes), notes


def _of_season(granules: list[Granule], images: Images, notes: list[str]) -> list[Granule]:
    """Those of the twelve months from images.season_start on."""
    first = images.season
    if first is None:
        return granules
    kept = [granule for granule in granules if 0 <= (granule.day - first).days < SEASON]
    if granules and not kept:
        days = sorted(granule.day for granule in granules)
        raise DataError(
            f"no image is of the twelve months from images.season_start {first} on, they are of {days[0]} to "
            f"{days[-1]}: correct season_start in {NAME}"
        )
    if left := len(granules) - len(kept):
        notes.append(f"{left} of {len(granules)} images are not of the twelve months from {first} on: left out")
    return kept
