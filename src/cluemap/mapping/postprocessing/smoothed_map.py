"""A written map made smooth, in strips of rows: what src/smooth_map.py does."""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.shutil import copy
from rasterio.windows import Window

from cluemap.errors import DataError
from cluemap.mapping.postprocessing.class_map import ClassMap, open_map
from cluemap.mapping.postprocessing.smoothing import majority, most_probable, without_small_patches

STRIP = 1024  # rows that are made at once


@dataclass(frozen=True)
class Smoothing:
    """What is to be done to a map; the vote comes first."""

    vote: str = "majority"  # majority | probability | none
    window: int = 5  # pixels a side
    minimum: float = 0.0  # hectares of the smallest patch that stays
    probabilities: Path | None = None  # for `probability`, as predict --probabilities writes them


def smooth_map(source: ClassMap, smoothing: Smoothing, out: Path) -> Path:
    """Write the smoothed map as a Cloud-Optimised GeoTIFF with the names, colours and style of the map.

    Raises:
        DataError: an impossible window, probabilities of another map, or a file that cannot be written.
    """
    _check(source, smoothing, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as folder:
        try:
            voted = _voted(source, smoothing, Path(folder) / "voted.tif")
            sieved = _sieved(voted, smoothing, Path(folder) / "sieved.tif")
            made = Path(folder) / out.name
            copy(sieved.file, made, driver="COG", COMPRESS="DEFLATE", OVERVIEW_RESAMPLING="MODE", BIGTIFF="IF_SAFER")
        except (RasterioError, OSError) as error:
            raise DataError(f"{out} cannot be written ({error}): free some room and run again") from error
        os.replace(made, out)
    style = source.file.with_suffix(".qml")
    if style.exists():
        shutil.copyfile(style, out.with_suffix(".qml"))
    return out


def _check(source: ClassMap, smoothing: Smoothing, out: Path) -> None:
    if out.suffix.lower() not in (".tif", ".tiff") or out.resolve() == source.file.resolve():
        raise DataError(f"--out {out}: give another file than the map, ending in .tif")
    if smoothing.window < 1 or smoothing.window % 2 == 0 or smoothing.minimum < 0:
        raise DataError(
            f"--window {smoothing.window} --minimum {smoothing.minimum:g}: give an odd number of pixels, and hectares "
            "from 0 up"
        )


def _voted(source: ClassMap, smoothing: Smoothing, out: Path) -> ClassMap:
    if smoothing.vote == "none":
        return source
    window, void, reach = smoothing.window, source.void, smoothing.window // 2
    if smoothing.vote == "majority":
        return _by_strips(source, out, [source.file], reach, lambda bands: majority(bands[0], void, window))
    ids = sorted(source.names)
    shares = _probabilities_of(source, smoothing.probabilities)

    def vote(bands: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return most_probable(bands[0], bands[1:], ids, void, window)

    return _by_strips(source, out, [source.file, shares], reach, vote)


def _probabilities_of(source: ClassMap, path: Path | None) -> Path:
    path = path or source.file.with_name(f"{source.file.stem}_probability.tif")
    if not path.exists():
        raise DataError(f"{path} is missing: map again with predict --probabilities, or use --vote majority")
    with rasterio.open(path) as file:
        held, wanted = (file.count, *file.shape), (len(source.names), source.height, source.width)
        if held != wanted or not file.transform.almost_equals(source.transform):
            raise DataError(
                f"{path} has {held} bands, rows and columns, {source.file} wants {wanted} on its own grid: give the "
                "probabilities of this map"
            )
    return path


def _sieved(source: ClassMap, smoothing: Smoothing, out: Path) -> ClassMap:
    """Which patches go does not depend on strips, since each is made with more rows around it than such a patch can
    reach. Which of two neighbours that are longer than a strip is the larger, and takes the patch, may."""
    if not smoothing.minimum:
        return source
    pixels = math.ceil(smoothing.minimum / source.hectares_per_pixel - 1e-9)
    reach = max(pixels, STRIP)
    return _by_strips(
        source, out, [source.file], reach, lambda bands: without_small_patches(bands[0], source.void, pixels)
    )


def _by_strips(
    source: ClassMap, out: Path, inputs: list[Path], reach: int, make: Callable[[NDArray], NDArray[np.uint8]]
) -> ClassMap:
    """Write `make` of all inputs' bands, strip by strip; each strip is made with `reach` rows more on either side."""
    with rasterio.open(source.file) as first:
        profile = {**first.profile, "driver": "GTiff", "compress": "deflate", "nodata": source.void}
        tags, colours = first.tags(1), first.colormap(1) if source.colours else None
    with rasterio.open(out, "w", **profile) as target:
        target.update_tags(1, **tags)
        if colours:
            target.write_colormap(1, colours)
        files = [rasterio.open(path) for path in inputs]
        try:
            for top in range(0, source.height, STRIP):
                bottom = min(top + STRIP, source.height)
                above, below = max(0, top - reach), min(source.height, bottom + reach)
                around = Window(0, above, source.width, below - above)
                made = make(np.concatenate([file.read(window=around) for file in files]))
                target.write(made[top - above : bottom - above], 1, window=Window(0, top, source.width, bottom - top))
        finally:
            for file in files:
                file.close()
    return open_map(out)
