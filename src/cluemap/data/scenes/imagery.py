"""All dates of a scene on one grid, read piece by piece."""

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from cluemap.data.patches import NODATA
from cluemap.data.scenes.extents import blocks_of, check_lattice, grid_of, place_of
from cluemap.data.scenes.grid import SINGLE, Blocks, Grid
from cluemap.data.scenes.scene_file import NAME, Images, Scene
from cluemap.data.scenes.sources.catalogue import find_granules
from cluemap.data.scenes.sources.cubes import CubeBand, CubeLayer, open_cube, place_of_cube
from cluemap.data.scenes.sources.granules import SCALE, Granule, Layer
from cluemap.data.scenes.sources.raster_band import Look, Raster, look
from cluemap.errors import DataError

STORED = 10000.0  # stored value of reflectance 1
READERS = min(8, os.cpu_count() or 1)  # dates that are read at once: decoding is most of the work


Band = Raster | CubeBand


class Imagery:
    """t dates of c bands on a grid. `read` may be called from several threads at once."""

    def __init__(
        self, images: Images, grid: Grid, granules: list[Granule], places: list[Grid], bands: list[str],
        notes: list[str], blocks: Blocks = SINGLE,
    ):  # fmt: skip
        self.images, self.grid, self.bands = images, grid, tuple(bands)
        self.blocks = blocks  # how most files are cut: reads that end where blocks do decode nothing twice
        self.notes = notes  # what was left out, or is missing: for the user to know
        self.dates: tuple[date, ...] = tuple(sorted({granule.day for granule in granules}))
        self.days = np.array([day.timetuple().tm_yday for day in self.dates], np.int16)
        self.settings = images.model_dump_json()
        self.masked = all(granule.mask for granule in granules)  # whether clouds are known on every date
        self.files = sorted({layer.path for granule in granules for layer in granule.layers})
        self._dates: dict[date, list[tuple[dict[str, Band], Band | None]]] = defaultdict(list)
        for granule, place in zip(granules, places, strict=True):
            layers = {
                band: _raster(granule.bands[band], grid, place, Resampling.bilinear)
                for band in bands
                if band in granule.bands
            }
            mask = _raster(granule.mask, grid, place, Resampling.nearest) if granule.mask else None
            self._dates[granule.day].append((layers, mask))

    def read(self, rows: slice, columns: slice, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
        """t c h w: reflectance x 10000, NODATA where a pixel was not seen or its date's SCL hides it. `out`: is filled
        and returned."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        series = np.empty((len(self.dates), len(self.bands), *shape), np.int16) if out is None else out
        series[:] = NODATA
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(lambda index: self._fill(series[index], index, rows, columns), range(len(series))))
        return series

    def read_date(self, index: int, rows: slice, columns: slice) -> NDArray[np.int16]:
        """c h w: one date alone."""
        picture = np.full((len(self.bands), rows.stop - rows.start, columns.stop - columns.start), NODATA, np.int16)
        self._fill(picture, index, rows, columns)
        return picture

    def read_stored(self, index: int, rows: slice, columns: slice) -> NDArray[np.float64]:
        """n: what the files of a date hold there, before scale and offset; to find out what they mean."""
        parts = [
            values[seen].astype(np.float64)
            for layers, _ in self._dates[self.dates[index]]
            for values, seen in (layer.read(rows, columns) for layer in layers.values())
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _fill(self, picture: NDArray, index: int, rows: slice, columns: slice) -> None:
        for layers, mask in self._dates[self.dates[index]]:
            self._lay(picture, layers, mask, rows, columns)

    def _lay(self, picture: NDArray, layers: dict[str, Band], mask: Band | None, rows: slice, columns: slice) -> None:
        """c h w: fill what earlier images of the date left empty."""
        hidden = None
        if mask is not None:
            classes, known = mask.read(rows, columns)
            hidden = np.isin(classes, self.images.hide) | ~known
            if hidden.all():
                return
        for band, name in zip(picture, self.bands, strict=True):
            if name not in layers:
                continue  # the image has no such band
            values, seen = layers[name].read(rows, columns)
            seen &= band == NODATA
            if hidden is not None:
                seen &= ~hidden
            _put(band, values, seen, layers[name].layer)


def _put(band: NDArray[np.int16], values: NDArray, seen: NDArray[np.bool_], layer: Layer) -> None:
    """h w each: what was seen goes into the band. Of whole numbers all are brought to reflectance: picking some out
    takes several times as long."""
    if values.dtype.kind in "iu":
        np.copyto(band, stored(values, layer), where=seen)
    else:  # what was not seen may be NaN
        band[seen] = stored(values[seen], layer)


def stored(values: NDArray, layer: Layer) -> NDArray[np.int16]:
    """Values of a file -> reflectance x 10000, rounded; never NODATA."""
    scale = (SCALE if layer.scale is None else layer.scale) * STORED
    offset = (layer.offset or 0.0) * STORED
    if abs(scale - 1.0) < 1e-9 and values.dtype.kind in "iu":
        reflectance = values.astype(np.int32) + round(offset)
    else:
        reflectance = np.rint(values.astype(np.float64) * scale + offset)
    return np.clip(reflectance, NODATA + 1, np.iinfo(np.int16).max).astype(np.int16)


def open_imagery(folder: Path, scene: Scene, bands: list[str] | None = None) -> Imagery:
    """Find every date, and see that all lie on one grid. `bands`: a choice of the scene's, in another order.

    Raises:
        DataError: no images, an unreadable one, a band that none has, dates on different grids, bounds off them.
    """
    bands = scene.images.bands if bands is None else bands
    missing = [band for band in bands if band not in scene.images.bands]
    if missing:
        raise DataError(f"{folder / NAME}: images.bands lacks {', '.join(missing)}, which the model was trained on")
    granules, notes = find_granules(folder, scene.images)
    looks = _looks(granules)
    _check_kinds(granules, looks, folder / NAME)
    granules = [_scaled(granule, looks) for granule in granules]
    looks = {layer.scaled(found.scale, found.offset): found for layer, found in looks.items()}
    places = []
    if not scene.grid.resample:
        places = [place_of(granule, looks, scene.grid.pixel) for granule in granules]
    grid = grid_of(folder, scene, granules, looks)
    if places:
        check_lattice(granules, places, grid)
    read = [granule.bands[band] for granule in granules for band in bands if band in granule.bands]
    blocks = blocks_of(read, looks, grid)
    return Imagery(scene.images, grid, granules, places or [grid] * len(granules), bands, notes, blocks)


def _looks(granules: list[Granule]) -> dict[Layer, Look]:
    layers = list(dict.fromkeys(layer for granule in granules for layer in granule.layers))
    with ThreadPoolExecutor(READERS) as pool:  # files on the web take their time
        return dict(zip(layers, pool.map(_look, layers), strict=True))


def _look(layer: Layer) -> Look:
    if not isinstance(layer, CubeLayer):
        return look(layer)
    place = place_of_cube(layer.path)
    dtype = str(open_cube(layer.path)[layer.variable].dtype)
    return Look(place.crs, place.bounds, place.pixel, place, layer.scale or SCALE, layer.offset or 0.0, dtype)


def _raster(layer: Layer, grid: Grid, place: Grid, resampling: Resampling) -> Band:
    if not isinstance(layer, CubeLayer):
        return Raster(layer, grid, place, resampling)
    own = place_of_cube(layer.path)
    if not place.aligned(own):
        raise DataError(
            f"{layer.path} lies on {own}, not on the lattice of the scene's grid, {grid}: a cube is not resampled, "
            f"write it on that grid, or set grid.pixel: {own.pixel:g} and grid.crs: {own.name} in {NAME}"
        )
    return CubeBand(layer, grid, own)


def _scaled(granule: Granule, looks: dict[Layer, Look]) -> Granule:
    """With the scale and offset that the files' tags give, where nothing else does."""
    scaled = {layer: layer.scaled(looks[layer].scale, looks[layer].offset) for layer in granule.layers}
    mask = scaled[granule.mask] if granule.mask else None
    return replace(granule, bands={band: scaled[layer] for band, layer in granule.bands.items()}, mask=mask)


def _check_kinds(granules: list[Granule], looks: dict[Layer, Look], file: Path) -> None:
    """Refuse pictures for the eye: 8 bits hold no reflectance x 10000."""
    for granule in granules:
        for layer in granule.bands.values():
            if looks[layer].dtype in ("uint8", "int8") and layer.scale is None and looks[layer].scale == SCALE:
                raise DataError(
                    f"{layer.path} holds 8-bit values, a picture and no reflectance: give the reflectance itself, or "
                    f"set images.scale (and images.offset) in {file}"
                )
            if looks[layer].dtype.startswith("complex"):
                raise DataError(f"{layer.path} holds complex numbers, no reflectance: take it out")
