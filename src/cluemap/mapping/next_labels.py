"""Which fields or windows of a mapped scene to label next: `<map>_label_next.gpkg`."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.features import rasterize
from scipy.sparse import coo_array

from cluemap.data.patches import NODATA, VOID
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.labels import Labelling
from cluemap.data.scenes.scene_file import NAME, read_scene
from cluemap.data.scenes.vectors.vector_files import FAILURES
from cluemap.data.series_features import EVERY, season
from cluemap.errors import DataError
from cluemap.mapping.geotiff import entries
from cluemap.mapping.map_canvas import PROBABILITY, Canvas
from cluemap.mapping.map_sources import Imagery
from cluemap.mapping.parcels.parcels import ROW
from cluemap.model.networks.pixel_segmenter import EvenSeries
from cluemap.model.storage.trained_models import Card
from cluemap.statistics.label_next import Candidates, label_next

STEP = 2  # every STEP-th row and column is looked at
SIDE = 256  # pixels a side of what is read at once
LABELLED = 0.5  # share of a candidate that has a label already
LAYER, SUFFIX = "label_next", "_label_next.gpkg"
LABEL = "label"  # the column that the user fills in


@dataclass
class _Sums:
    """Of every candidate n, over its pixels that were looked at."""

    pixels: NDArray[np.float64]  # n
    labelled: NDArray[np.float64]  # n
    probabilities: NDArray[np.float64]  # n k
    features: NDArray[np.float64]  # n d

    def means(self, rows: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of some candidates: probabilities that sum to 1, features."""
        shares = self.probabilities[rows]
        shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-9)
        return shares, self.features[rows] / self.pixels[rows, None]


def choose_next(
    canvas: Canvas, imagery: Imagery, card: Card, folder: Path, parcels: gpd.GeoDataFrame | None, count: int
) -> gpd.GeoDataFrame:
    """The `count` parcels (without them: windows of the model's size) to label next, the first first.

    What is labelled already is taken from the scene's own scene.yaml. A canvas with a layer of probabilities is wanted.

    Raises:
        DataError: no candidate without a label.
    """
    grid = imagery.grid
    names, shapes = _candidates(grid, card.size, parcels)
    sums = _summed(canvas, imagery, shapes, _labels(folder, grid))
    seen = (sums.pixels > 0) & (sums.probabilities.sum(axis=1) > 0)
    done = sums.labelled >= LABELLED * np.maximum(sums.pixels, 1)
    free, known = np.flatnonzero(seen & ~done), np.flatnonzero(seen & done)
    if not len(free):
        raise DataError(f"--label-next: all of the {len(shapes)} candidates have labels or were never seen")
    count = min(count, len(free))
    centres = shapely.centroid(shapes[free])
    places = np.stack([shapely.get_x(centres), shapely.get_y(centres)], axis=1)
    probabilities, features = sums.means(free)
    apart = float(np.sqrt(np.ptp(places[:, 0]) * np.ptp(places[:, 1]) / count)) / 2
    found = label_next(Candidates(probabilities, features, places), sums.means(known)[1], count, apart)
    classes = [name for _, name, _ in entries(card.legend)]
    table = gpd.GeoDataFrame(
        {
            "rank": np.arange(1, count + 1),
            "candidate": [names[number] for number in free[found.candidates]],
            LABEL: [""] * count,
            "guess": [classes[k] for k in probabilities[found.candidates].argmax(axis=1)],
            "uncertainty": found.uncertainty.round(4),
            "novelty": found.novelty.round(4),
            "score": found.score.round(5),
        },
        geometry=shapes[free[found.candidates]], crs=CRS.from_wkt(grid.crs.to_wkt()),
    )  # fmt: skip
    return table


def next_file(out: Path) -> Path:
    """Where `write_next` writes beside the map `out`."""
    return out.with_name(f"{out.stem}{SUFFIX}")


def check_unlabelled(out: Path) -> None:
    """Raises DataError: an earlier list beside the map holds labels, which a new one would overwrite."""
    file = next_file(out)
    if not file.exists():
        return
    try:
        held = gpd.read_file(file, layer=LAYER, ignore_geometry=True)[LABEL].fillna("").astype(str).str.strip()
    except FAILURES:
        return  # none of ours, or damaged: nothing to be read from it
    if count := int((held != "").sum()):
        raise DataError(f"{file} holds {count} labels: move it away, or give another --out")


def write_next(table: gpd.GeoDataFrame, out: Path) -> Path:
    """Write it beside the map `out`."""
    file = next_file(out)
    with TemporaryDirectory(dir=out.parent) as folder:  # GDAL wants the file's true ending
        temporary = Path(folder) / file.name
        table.to_file(temporary, driver="GPKG", layer=LAYER)
        os.replace(temporary, file)
    return file


def _candidates(grid: Grid, size: int, parcels: gpd.GeoDataFrame | None) -> tuple[list[str], NDArray]:
    """Names and polygons in the grid's CRS."""
    if parcels is not None:
        kept = parcels[~(parcels.geometry.isna() | parcels.geometry.is_empty)]
        return [f"parcel {row}" for row in kept[ROW]], np.asarray(kept.geometry.values)
    rows, columns = (range(0, max(side - size, 0) + 1, size) for side in (grid.height, grid.width))
    corners = [(row, column) for row in rows for column in columns]
    places = [grid.cut(slice(row, row + size), slice(column, column + size)) for row, column in corners]
    return [f"row {row}, column {column}" for row, column in corners], shapely.box(
        *np.array([place.bounds for place in places]).T
    )


def _labels(folder: Path, grid: Grid) -> Labelling | None:
    """What the scene says of its land; None where it says nothing."""
    if not (folder / NAME).exists():
        return None
    scene = read_scene(folder)
    return None if scene.labels is None else Labelling(folder, scene, grid)


def _summed(canvas: Canvas, imagery: Imagery, shapes: NDArray, labels: Labelling | None) -> _Sums:
    """Read the scene piece by piece and sum over the candidates' pixels."""
    grid, series = imagery.grid, _series(imagery)
    width = len(series.days) * len(series.mean)
    layers = canvas.layers[PROBABILITY]
    sums = _Sums(np.zeros(len(shapes)), np.zeros(len(shapes)), np.zeros((len(shapes), layers)),
                 np.zeros((len(shapes), width)))  # fmt: skip
    tree = shapely.STRtree(shapes)
    for top in range(0, grid.height, SIDE):
        for left in range(0, grid.width, SIDE):
            rows, columns = slice(top, min(top + SIDE, grid.height)), slice(left, min(left + SIDE, grid.width))
            _add(sums, canvas, imagery, series, grid.cut(rows, columns), (rows, columns), tree, labels)
    return sums


def _add(
    sums: _Sums, canvas: Canvas, imagery: Imagery, series: EvenSeries, place: Grid, here: tuple[slice, slice],
    tree: shapely.STRtree, labels: Labelling | None,
) -> None:  # fmt: skip
    """Add the pixels of one piece."""
    hit = np.sort(tree.query(shapely.box(*place.bounds)))
    if not len(hit):
        return
    drawn = zip(tree.geometries[hit], (hit + 1).tolist(), strict=True)
    owner = rasterize(drawn, (place.height, place.width), fill=0, transform=place.transform, dtype=np.int32)
    owner = owner[::STEP, ::STEP].ravel() - 1
    fine = canvas.height // imagery.grid.height  # pixels of the map along one of the images
    rows, columns = (slice(side.start * fine, side.stop * fine, STEP * fine) for side in here)
    shares = np.asarray(canvas.open(PROBABILITY)[:, rows, columns]).reshape(canvas.layers[PROBABILITY], -1)
    kept = (owner >= 0) & (shares[0] != VOID)
    if not kept.any():
        return
    images = imagery.read(*here)[:, :, ::STEP, ::STEP]
    features = _features(series, images, imagery.days)[kept]
    known = np.zeros(len(owner), bool)
    if labels is not None and labels.mapped is not None:
        known = (labels.mapped.draw(place, VOID, np.uint8) != VOID)[::STEP, ::STEP].ravel()
    count = len(sums.pixels)
    sums.pixels += np.bincount(owner[kept], minlength=count)
    sums.labelled += np.bincount(owner[kept], known[kept], minlength=count)
    member = coo_array((np.ones(kept.sum()), (owner[kept], np.arange(kept.sum()))), (count, int(kept.sum()))).tocsr()
    sums.probabilities += member @ shares[:, kept].T.astype(np.float64)
    sums.features += member @ features.astype(np.float64)


def _series(imagery: Imagery) -> EvenSeries:
    """Raw bands at even days over the scene's own dates."""
    dates = season(imagery.days)
    bands = imagery.read(slice(0, 1), slice(0, 1)).shape[1]
    days = torch.arange(int(dates[0]), int(dates[-1]) + EVERY, EVERY)
    return EvenSeries(torch.zeros(bands), torch.ones(bands), days)


def _features(series: EvenSeries, images: NDArray[np.int16], days: NDArray[np.int16]) -> NDArray[np.float32]:
    """t c h w -> p d; a band without data is a date without data."""
    raw = torch.from_numpy(np.where(images == NODATA, 0, images).astype(np.float32))[None]
    valid = torch.ones(1, len(days), dtype=torch.bool)
    return series(raw, torch.from_numpy(days.astype(np.int64))[None], valid).numpy()
