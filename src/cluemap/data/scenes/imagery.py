"""All dates of a scene on one grid, read piece by piece."""

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from cluemap.data.patches import NODATA
from cluemap.data.scenes.grid import Grid, grid_over
from cluemap.data.scenes.image_files import Granule, Layer, find_granules
from cluemap.data.scenes.raster_band import Raster, footprint
from cluemap.data.scenes.scene_file import NAME, Images, Scene
from cluemap.errors import DataError

STORED = 10000.0  # stored value of reflectance 1
READERS = min(8, os.cpu_count() or 1)  # dates that are read at once: decoding is most of the work


class Imagery:
    """t dates of c bands on a grid. `read` may be called from several threads at once."""

    def __init__(self, images: Images, grid: Grid, granules: list[Granule], places: dict[str, Grid], bands: list[str]):
        self.images, self.grid, self.bands = images, grid, tuple(bands)
        self.dates: tuple[date, ...] = tuple(sorted({granule.day for granule in granules}))
        self.days = np.array([day.timetuple().tm_yday for day in self.dates], np.int16)
        self.settings = images.model_dump_json()
        self.masked = all(granule.mask for granule in granules)  # whether clouds are known on every date
        self.files = sorted({layer.path for granule in granules for layer in _layers(granule)})
        self._dates: dict[date, list[tuple[dict[str, Raster], Raster | None]]] = defaultdict(list)
        for granule in granules:
            place = places[granule.tile]
            layers = {band: Raster(granule.bands[band], grid, place, Resampling.bilinear) for band in bands}
            mask = Raster(granule.mask, grid, place, Resampling.nearest) if granule.mask else None
            self._dates[granule.day].append((layers, mask))

    def read(self, rows: slice, columns: slice) -> NDArray[np.int16]:
        """t c h w: reflectance x 10000, NODATA where a pixel was not seen or its date's SCL hides it."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        series = np.full((len(self.dates), len(self.bands), *shape), NODATA, np.int16)
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(lambda index: self._fill(series[index], index, rows, columns), range(len(series))))
        return series

    def read_date(self, index: int, rows: slice, columns: slice) -> NDArray[np.int16]:
        """c h w: one date alone."""
        picture = np.full((len(self.bands), rows.stop - rows.start, columns.stop - columns.start), NODATA, np.int16)
        self._fill(picture, index, rows, columns)
        return picture

    def _fill(self, picture: NDArray, index: int, rows: slice, columns: slice) -> None:
        for layers, mask in self._dates[self.dates[index]]:
            self._lay(picture, layers, mask, rows, columns)

    def _lay(
        self, picture: NDArray, layers: dict[str, Raster], mask: Raster | None, rows: slice, columns: slice
    ) -> None:
        """c h w: fill what earlier tiles of the date left empty."""
        hidden = None
        if mask is not None:
            classes, known = mask.read(rows, columns)
            hidden = np.isin(classes, self.images.hide) | ~known
            if hidden.all():
                return
        for band, name in zip(picture, self.bands, strict=True):
            values, seen = layers[name].read(rows, columns)
            seen &= band == NODATA
            if hidden is not None:
                seen &= ~hidden
            band[seen] = stored(values[seen], layers[name].layer)


def stored(values: NDArray, layer: Layer) -> NDArray[np.int16]:
    """Values of a file -> reflectance x 10000, rounded; never NODATA."""
    scale, offset = layer.scale * STORED, layer.offset * STORED
    if abs(scale - 1.0) < 1e-9 and values.dtype.kind in "iu":
        reflectance = values.astype(np.int32) + round(offset)
    else:
        reflectance = np.rint(values.astype(np.float64) * scale + offset)
    return np.clip(reflectance, NODATA + 1, np.iinfo(np.int16).max).astype(np.int16)


def open_imagery(folder: Path, scene: Scene, bands: list[str] | None = None) -> Imagery:
    """Find every date, and see that all lie on one grid. `bands`: a choice of the scene's, in another order.

    Raises:
        DataError: no images, an unreadable one, a missing band, dates on different grids.
    """
    bands = scene.images.bands if bands is None else bands
    missing = [band for band in bands if band not in scene.images.bands]
    if missing:
        raise DataError(f"{folder / NAME}: images.bands lacks {', '.join(missing)}, which the model was trained on")
    granules = find_granules(folder, scene.images)
    places = _places(granules, scene.grid.pixel, scene.grid.resample)
    grid = _grid(folder, scene, places)
    for tile, place in places.items():
        if scene.grid.resample:
            places[tile] = grid
        elif not grid.aligned(place):
            raise DataError(
                f"tile {tile or 'of the images'} lies on {place}, which is not on the lattice of the scene's grid, "
                f"{grid}: set grid.resample: true in {NAME} to bring them together"
            )
    return Imagery(scene.images, grid, granules, places, bands)


def _places(granules: list[Granule], pixel: float, resample: bool) -> dict[str, Grid]:
    """The grid of each tile, the same on all its dates and bands; with `resample` that of its first."""
    places: dict[str, Grid] = {}
    first: dict[str, Path] = {}
    for granule in granules:
        for layer in _layers(granule):
            if resample and granule.tile in places:
                continue
            found = footprint(layer, pixel)
            if found is None:
                if resample:
                    continue
                raise DataError(
                    f"{layer.path} is turned, oblong or in degrees: set grid.crs and grid.resample: true in {NAME}"
                )
            known = places.setdefault(granule.tile, found)
            named = first.setdefault(granule.tile, layer.path)
            if (known.height, known.width) != (found.height, found.width) or not known.aligned(found) \
                    or known.offset(found) != (0, 0):  # fmt: skip
                raise DataError(
                    f"{layer.path} lies on {found}, but {named} on {known}: set grid.resample: true in {NAME} to bring "
                    "all dates to one grid, or take the date out"
                )
    return places


def _grid(folder: Path, scene: Scene, places: dict[str, Grid]) -> Grid:
    """The scene's grid: as scene.yaml says, else all tiles together in the CRS of the first."""
    wanted, file = scene.grid, folder / NAME
    first = next(iter(places.values()), None)
    if first is None and (wanted.crs is None or wanted.bounds is None):
        raise DataError(f"{file}: the images lie on no grid of metres: give grid.crs and grid.bounds")
    try:
        crs = CRS.from_user_input(wanted.crs) if wanted.crs or first is None else first.crs
    except CRSError:
        raise DataError(f"{file}: grid.crs {wanted.crs!r} is no CRS: give one like EPSG:32632") from None
    if wanted.bounds:
        return grid_over(crs, (wanted.bounds[0], wanted.bounds[1], wanted.bounds[2], wanted.bounds[3]), wanted.pixel)
    boxes = np.array([transform_bounds(place.crs, crs, *place.bounds, densify_pts=21) for place in places.values()])
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    if first is not None and crs != first.crs:  # no corner to keep: round outwards
        low, high = np.floor(low / wanted.pixel) * wanted.pixel, np.ceil(high / wanted.pixel) * wanted.pixel
    return grid_over(crs, (float(low[0]), float(low[1]), float(high[0]), float(high[1])), wanted.pixel)


def _layers(granule: Granule) -> list[Layer]:
    return [*granule.bands.values(), *([granule.mask] if granule.mask else [])]
