"""From a model and a scene to a finished map: what src/predict.py does."""

import hashlib
import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd

from cluemap.data.scenes.grid import Blocks, Grid
from cluemap.errors import DataError
from cluemap.mapping.area_tables import hectares, write_tables
from cluemap.mapping.geotiff import entries, write_cog
from cluemap.mapping.map_canvas import CLASSES, CONFIDENCE, PROBABILITY, UNCERTAINTY, UNLIKE, Canvas, TileFiles
from cluemap.mapping.map_sources import Imagery, fingerprint, open_source
from cluemap.mapping.map_styling import write_preview, write_style, write_unlike_style
from cluemap.mapping.model_choice import find_model
from cluemap.mapping.next_labels import check_unlabelled, choose_next, write_next
from cluemap.mapping.parcels.parcel_map import map_parcels
from cluemap.mapping.parcels.parcels import per_parcel, read_parcels
from cluemap.mapping.raster_prediction import Settings, predict
from cluemap.mapping.tile_reading import tiling
from cluemap.mapping.training_match import compare
from cluemap.model.storage.known_series import read_known_series
from cluemap.model.storage.parcel_models import FILE as PARCELS
from cluemap.model.storage.trained_models import Card, load_segmenter
from cluemap.paths import OUT
from cluemap.runtime.distributed import Ranks, alone
from cluemap.statistics.unlike_training import UnlikeTraining

FINEST = 4  # pixels of a map along a pixel of the images: more is no more than a smoother line
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What is to be mapped, with what, and where to."""

    model: str
    scene: Path
    out: Path  # *.tif
    patch: str | None = None  # of PASTIS
    probabilities: bool = False
    parcels: Path | None = None
    settings: Settings = field(default_factory=Settings)
    models: Path = OUT  # where run ids are looked up
    unlike: bool = False  # also how unlike the training each pixel is
    label_next: int = 0  # how many fields or windows to name that should be labelled next


def make_map(order: Order, progress: bool = True, ranks: Ranks | None = None) -> list[Path]:
    """Make the map and all that goes with it; going on with one that was begun. Returns the files. With a parcel
    network: the parcels alone, see `map_parcels`.

    ranks: the processes that share the tiles (None: this one alone); the first makes the files, the others return [].
    The map has the same bits for any number of them.

    Raises:
        CheckpointError: no such model. DataError: bad imagery, or no room.
    """
    file, ranks = find_model(order.model, order.models), ranks or alone()
    if file.name == PARCELS:
        return map_parcels(order, file, ranks, progress)
    if order.out.suffix.lower() not in (".tif", ".tiff"):
        raise DataError(f"--out {order.out}: give the map's file, ending in .tif")
    if order.label_next:
        check_unlabelled(order.out)
    network, card = load_segmenter(file)
    imagery = open_source(order.scene, card.legend, order.patch)
    wanted = {CLASSES: 1, CONFIDENCE: 1, UNCERTAINTY: 1}
    if order.probabilities or order.label_next:
        wanted[PROBABILITY] = len(entries(card.legend))
    unlike = None
    if order.unlike:
        wanted[UNLIKE] = 1
        unlike = UnlikeTraining(read_known_series(file), imagery.days, ranks.device)
    settings = order.settings
    _check(settings)
    lines = tiling(settings.tile, imagery.blocks, len(imagery.days), len(card.legend.bands))
    grid = imagery.grid.finer(settings.scale)
    canvas = fields = None
    if ranks.first:
        for text in compare(card, imagery, order.scene):
            log.warning("%s", text)
        fields = read_parcels(order.parcels, grid, card.legend, order.out) if order.parcels else None
        identity = _identity(settings, lines, file, fingerprint(imagery), list(wanted))
        canvas = Canvas(_work(order.out), grid.height, grid.width, wanted, identity)
        canvas.take_in()
        if canvas.resumed:
            log.info("going on with the map begun in %s: %d tiles are done", canvas.folder, len(canvas.done))
    done = ranks.agree(canvas.done if canvas else None)
    goal = (
        canvas
        if canvas and ranks.world == 1
        else TileFiles(_work(order.out), wanted, set(done), ranks.rank, ranks.world)
    )
    predict(network.to(ranks.device), card, imagery, goal, settings, ranks.device, progress and ranks.first, unlike)
    ranks.barrier()
    if canvas is None:
        return []
    canvas.take_in()
    files = _write(order, canvas, imagery, card, grid, fields)
    shutil.rmtree(canvas.folder)
    return files


def _write(
    order: Order, canvas: Canvas, imagery: Imagery, card: Card, grid: Grid, fields: gpd.GeoDataFrame | None
) -> list[Path]:
    """The map's files, from a canvas that is full; fields: what --parcels gave."""
    asked = choose_next(canvas, imagery, card, order.scene, fields, order.label_next) if order.label_next else None
    table = hectares(canvas, grid, card.legend)
    if not table["pixels"].iloc[:-1].any():
        log.warning("no pixel of the map was ever seen: it is empty; are the dates clouded all over?")
    parcels = None if fields is None else per_parcel(canvas, grid, card.legend, fields)
    names = [name for _, name, _ in entries(card.legend)]
    beside = {
        CONFIDENCE: ["confidence, percent"],
        UNCERTAINTY: ["uncertainty, percent of the highest"],
        UNLIKE: ["percent of known pixels that are less unlike the training"],
        PROBABILITY: [f"{name}, percent" for name in names],
    }
    files = [order.out]
    for layer, bands in beside.items():
        if layer in canvas.layers and (layer != PROBABILITY or order.probabilities):
            files.append(order.out.with_name(f"{order.out.stem}_{layer}.tif"))
            write_cog(canvas, layer, grid, files[-1], bands)
    if order.unlike:
        files.append(write_unlike_style(order.out.with_name(f"{order.out.stem}_{UNLIKE}.tif")))
    write_cog(canvas, CLASSES, grid, order.out, ["crop"], card.legend)
    files += [write_style(order.out, card.legend), *write_tables(order.out, table, parcels)]
    files.append(write_preview(order.out, card.legend, dict(zip(table["class"], table["hectares"], strict=True))))
    if asked is not None:
        files.append(write_next(asked, order.out))
    return files


def _work(out: Path) -> Path:
    """Where the unfinished map lies: beside the finished one, so that it can be moved there."""
    return out.with_name(f".{out.name}.unfinished")


def _check(given: Settings) -> None:
    """Raises DataError for impossible settings."""
    if given.overlap is not None and not 0 <= given.overlap < 1:
        raise DataError(f"--overlap {given.overlap}: give the share of a window, from 0 to under 1")
    if given.tile < 0 or given.batch < 1:
        raise DataError(f"--tile {given.tile} --batch {given.batch}: give whole numbers above 0")
    if not 1 <= given.scale <= FINEST:
        raise DataError(f"--scale {given.scale}: give 1 (pixels as the images') to {FINEST}")


def _identity(settings: Settings, lines: Blocks, model: Path, images: str, layers: list[str]) -> dict[str, Any]:
    """What must be the same for an unfinished map to be gone on with."""
    digest = hashlib.blake2b(model.read_bytes(), digest_size=16).hexdigest()
    kept = asdict(settings) | {"batch": None, "tile": list(lines)}
    return {"model": digest, "images": images, "settings": kept, "layers": layers}
