"""Every parcel of a scene with one crop and its probability, from a parcel network: no map of pixels in between."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry
from tqdm import tqdm

from cluemap.data.parcels.batches import Loading
from cluemap.data.parcels.parcel import GEOMETRY, Parcel, border_sides, geometry_of
from cluemap.data.parcels.parcel_writer import ParcelWriter
from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import NODATA, VOID
from cluemap.data.scenes.grid import Grid
from cluemap.data.series_features import season
from cluemap.errors import DataError
from cluemap.mapping.area_tables import write_parcels
from cluemap.mapping.map_sources import Imagery, open_source
from cluemap.mapping.parcels.parcels import described, pixels_around, read_parcels
from cluemap.mapping.raster_prediction import PERCENT
from cluemap.mapping.tile_reading import fitting_tile
from cluemap.mapping.training_match import compare
from cluemap.model.storage.parcel_models import ParcelModel, load_parcel_model
from cluemap.params import ComputeParams
from cluemap.runtime.distributed import Ranks
from cluemap.statistics.calibration import calibrated
from cluemap.training.parcels.parcel_task import predict

if TYPE_CHECKING:
    from cluemap.mapping.map_products import Order

TINY = 1e-7  # under a probability before its logarithm
log = logging.getLogger(__name__)


class Outline(NamedTuple):
    """The pixels of one parcel: those whose centres it holds; where it holds none, those that it touches."""

    number: int  # row in the table of parcels
    rows: NDArray[np.int64]  # s, in the grid
    columns: NDArray[np.int64]
    sides: int  # of pixels, that are the parcel's border
    rule: str  # centre | touched


def map_parcels(order: "Order", file: Path, ranks: Ranks, progress: bool = True) -> list[Path]:
    """Write every row of the user's parcels with its crop to `order.out` and, as CSV, beside it; returns the files.
    The columns are those of a map that is summed up by parcels, with the crop in all pixels of a parcel.

    Raises:
        CheckpointError, DataError: no such model, bad imagery, options that a parcel network has no map for.
    """
    model = load_parcel_model(file)
    _check(order, model)
    if not ranks.first:
        return []
    imagery = open_source(order.scene, model.legend, order.patch)
    for text in compare(model, imagery, order.scene):
        log.warning("%s", text)
    legend = replace(model.legend, background=model.background)
    assert order.parcels is not None
    table = read_parcels(order.parcels, imagery.grid, legend, order.out)
    model.network.to(ranks.device)
    counts, sums = np.zeros((len(table), len(legend.classes) + 1), np.int64), np.zeros(len(table))
    rules: list[str | None] = [None] * len(table)
    tile, shapes = order.settings.tile or fitting_tile(len(imagery.days), len(legend.bands)), table.geometry
    said: Counter[str] = Counter()
    compute = ComputeParams(precision=order.settings.precision, compile=False, clip_norm=0.0, inference_batch=1)  # type: ignore[arg-type]
    with tqdm(desc="predict", total=len(table), unit="parcel", disable=not progress) as bar:
        for group in groups(shapes, imagery.grid, tile):
            outlines = [found for number in group if (found := outline(number, shapes.iloc[number], imagery.grid))]
            parcels = read_pixels(outlines, imagery, tile)
            seen, shares = crops_of(parcels, model, compute, ranks, order.out.parent)
            for one in outlines:
                rules[one.number] = one.rule
                said["touched"] += one.rule == "touched"
                said["slivers"] += len(one.rows) < model.params.least_pixels
            for parcel, share in zip(seen, shares, strict=True):
                number, pixels = int(parcel.name), int((parcel.pixels != NODATA).all(axis=2).any(axis=1).sum())
                counts[number, int(share.argmax()) + (not model.background)] = pixels
                sums[number] = PERCENT * float(share.max()) * pixels
            said["unseen"] += len(parcels) - len(seen)
            bar.update(len(group))
    _tell(said, len(table), int((counts.sum(axis=1) > 0).sum()), model.params.least_pixels)
    return write_parcels(order.out, described(table, counts, sums, rules, imagery.grid, legend))


def groups(shapes: Iterable[BaseGeometry | None], grid: Grid, tile: int) -> list[list[int]]:
    """The numbers of the shapes on the grid, those together whose first pixels lie in one tile."""
    found: dict[tuple[int, int], list[int]] = {}
    for number, shape in enumerate(shapes):
        place = None if shape is None or shape.is_empty else pixels_around(shape, grid)
        if place is not None:
            found.setdefault((place[0].start // tile, place[1].start // tile), []).append(number)
    return [found[place] for place in sorted(found)]


def outline(number: int, shape: BaseGeometry, grid: Grid) -> Outline | None:
    """The pixels of a shape; None: it lies off the grid, but for its bounds."""
    place = pixels_around(shape, grid)
    if place is None:
        return None
    part = grid.cut(*place)
    for rule in ("centre", "touched"):
        inside = rasterize(
            [shape], out_shape=(part.height, part.width), transform=part.transform, dtype=np.uint8,
            all_touched=rule == "touched",
        )  # fmt: skip
        if inside.any():
            rows, columns = np.nonzero(inside)
            sides = int(border_sides(inside)[inside > 0].sum())
            return Outline(number, rows + place[0].start, columns + place[1].start, sides, rule)
    return None


def read_pixels(outlines: list[Outline], imagery: Imagery, tile: int) -> list[Parcel]:
    """The parcels of one group, read in strips of about a tile's pixels."""
    if not outlines:
        return []
    days, bands = season(imagery.days).astype(np.int16), 0
    top, bottom = min(one.rows.min() for one in outlines), max(one.rows.max() for one in outlines) + 1
    left, right = min(one.columns.min() for one in outlines), max(one.columns.max() for one in outlines) + 1
    held: list[NDArray[np.int16]] = []
    step = max(1, tile**2 // (right - left))
    for first in range(top, bottom, step):
        rows = slice(first, min(first + step, bottom))
        images = imagery.read(rows, slice(int(left), int(right)))  # t c h w
        bands = images.shape[1]
        held = held or [np.full((len(one.rows), len(days), bands), NODATA, np.int16) for one in outlines]
        for one, pixels in zip(outlines, held, strict=True):
            here = (one.rows >= rows.start) & (one.rows < rows.stop)
            pixels[here] = images[:, :, one.rows[here] - rows.start, one.columns[here] - left].transpose(2, 0, 1)
    return [
        Parcel(
            name=str(one.number), patch="", fold=-1, split="", crop=VOID, pixels=pixels, days=days,
            geometry=geometry_of(one.rows, one.columns, one.sides, imagery.grid.pixel),
            area=len(one.rows) * imagery.grid.pixel**2, positions=np.stack([one.rows, one.columns], 1).astype(np.int32),
            x=float("nan"), y=float("nan"), crs=imagery.grid.name, cut=False,
        )
        for one, pixels in zip(outlines, held, strict=True)
    ]  # fmt: skip


def crops_of(
    parcels: list[Parcel], model: ParcelModel, compute: ComputeParams, ranks: Ranks, place: Path
) -> tuple[list[Parcel], NDArray[np.float64]]:
    """The parcels that were ever seen, n, and their calibrated probabilities, n k."""
    seen = [parcel for parcel in parcels if (parcel.pixels != NODATA).all(axis=2).any()]
    if not seen:
        return [], np.zeros((0, 0))
    with TemporaryDirectory(dir=place) as folder:
        writer = ParcelWriter(Path(folder), model.legend, model.geometry)
        for parcel in seen:
            writer.add(parcel)
        writer.finish(model.dataset, {})
        loading = Loading(
            Parcels.open(folder), model.scaling, np.full(len(seen), -1, np.int64), masks=not model.params.published
        )
        found = predict(model.network, loading, np.arange(len(seen)), compute, ranks)
    return seen, calibrated(np.log(np.maximum(found, TINY)).astype(np.float64), model.temperature)


def _check(order: "Order", model: ParcelModel) -> None:
    if order.parcels is None:
        raise DataError("--model is a parcel network: give it the fields, --parcels <polygons>")
    if order.out.suffix.lower() != ".gpkg":
        raise DataError(f"--out {order.out}: a parcel network makes no map of pixels; give a file that ends in .gpkg")
    if order.probabilities or order.unlike or order.label_next or order.settings.scale != 1:
        raise DataError(
            "--probabilities, --unlike, --label-next and --scale are of maps: leave them out with a parcel network"
        )
    if model.geometry != GEOMETRY:
        raise DataError(
            f"the parcel network was trained with the geometric features {', '.join(model.geometry)}, parcels of a "
            f"scene have {', '.join(GEOMETRY)}: train it on parcels that are cut from images"
        )


def _tell(said: Counter[str], rows: int, told: int, least: int) -> None:
    found = {
        f"{said['touched']} hold no pixel's centre and took the pixels they touch": said["touched"],
        f"{said['slivers']} have fewer than {least} pixels, too few for the training": said["slivers"],
        f"{said['unseen']} were never seen and have no crop": said["unseen"],
    }
    if parts := [text for text, count in found.items() if count]:
        log.warning("%d of %d parcels have a crop; %s", told, rows, "; ".join(parts))
