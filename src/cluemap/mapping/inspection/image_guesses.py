"""What a folder of images holds, guessed from names and the first file."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from cluemap.data.scenes.sources.image_files import SUFFIXES
from cluemap.data.scenes.sources.packages import find_packages
from cluemap.data.scenes.sources.safe_products import FILE
from cluemap.errors import DataError

SENTINEL = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
BAND = re.compile(r"(?:^|[_.\-])(B\d[\dA]|SCL)(?:[_.\-]|$)")
USUAL = {  # bands of files that do not name them, by their number
    4: ("B02", "B03", "B04", "B08"),
    10: SENTINEL,
    12: ("B01", *SENTINEL[:8], "B09", *SENTINEL[8:]),
}


@dataclass
class ImageGuess:
    """The block `images`, and what of it should be looked at."""

    kind: str
    bands: list[str]
    file_bands: list[str] | None = None
    guessed: list[str] = field(default_factory=list)

    @property
    def true_colour(self) -> list[str]:
        """Red, green, blue, or the first bands."""
        usual = ["B04", "B03", "B02"]
        return usual if set(usual) <= set(self.bands) else (self.bands * 3)[:3]


def guess_images(home: Path) -> ImageGuess:
    """Which kind of images `home` holds, and their bands; raises DataError where it holds none."""
    if not home.is_dir():
        raise DataError(f"{home} is no folder: give the one that holds the images")
    products = list(find_packages(home))
    if products:
        there = {match[3] for package in products for match in map(FILE.search, package.members) if match}
        return _of_bands("safe", there, home)
    paths = sorted(path for path in home.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not paths:
        raise DataError(f"{home} holds no images: neither *.SAFE products, nor zips of them, nor {', '.join(SUFFIXES)}")
    named = {match[1] for match in (BAND.search(path.stem) for path in paths) if match}
    if len(named) > 1:
        return _of_bands("folders", named, home)
    return _of_file(paths[0])


def _of_bands(kind: str, there: set[str], home: Path) -> ImageGuess:
    bands = [band for band in SENTINEL if band in there] or sorted(there - {"SCL"})
    if not bands:
        raise DataError(f"{home} holds products without any band: fetch them again")
    return ImageGuess(kind, bands)


def _of_file(path: Path) -> ImageGuess:
    try:
        with rasterio.open(path) as file:
            names, count = list(file.descriptions), file.count
    except (RasterioError, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again, or take it out") from None
    if all(names) and len(set(names)) == count:
        return ImageGuess("files", [str(name) for name in names if name != "SCL"])
    bands = list(USUAL.get(count, [f"band{number}" for number in range(1, count + 1)]))
    return ImageGuess("files", bands, bands, ["file_bands: the files do not name their bands, these are guessed"])
