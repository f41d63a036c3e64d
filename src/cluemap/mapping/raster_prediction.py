"""A segmenter over a whole raster: tile by tile, its windows in batches, blended where they overlap."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from einops import repeat
from numpy.typing import NDArray
from torch.nn import functional as F
from tqdm import tqdm

from cluemap.data.batches import RawBatch, normalise
from cluemap.data.patches import NODATA, VOID
from cluemap.data.prefetch import ahead
from cluemap.mapping.map_canvas import CLASSES, CONFIDENCE, PROBABILITY, UNCERTAINTY, UNLIKE, Canvas, TileFiles
from cluemap.mapping.overlap_blending import Blend, Tile, core, hill, tiles
from cluemap.mapping.tile_reading import TileReader, tiling
from cluemap.model.networks.segmenter import Segmenter
from cluemap.model.storage.trained_models import Card
from cluemap.runtime.memory import give_back_freed
from cluemap.statistics.calibration import entropy
from cluemap.statistics.unlike_training import UnlikeTraining

if TYPE_CHECKING:  # GDAL is not needed to predict what lies in memory
    from cluemap.mapping.map_sources import Imagery

PERCENT = 100
OVERLAP = 0.5
ROWS = 64  # of a tile whose probabilities become layers at once


@dataclass(frozen=True)
class Settings:
    """How a map is made. Only `overlap`, `precision` and `scale` change it beyond rounding."""

    tile: int = 0  # pixels a side of what is read at once; 0: see `tiling`
    batch: int = 48  # windows a forward pass
    overlap: float | None = None  # share of a window's side that neighbours have in common, under 1; None: see `layout`
    precision: str = "fp32"  # fp32 | bf16
    scale: int = 1  # pixels of the map along a pixel of the images


class Layout(NamedTuple):
    """How windows lie on the raster."""

    size: int  # pixels a side of a window
    shared: int  # pixels that neighbours have in common
    weight: NDArray[np.float32]  # h w of a window's pixels of the map, where windows overlap


def layout(settings: Settings, size: int, reach: int | None, shortest: int) -> Layout:
    """Windows of the model's `size`, overlapping as asked.

    Not asked: by half where the network sees its whole window (reach None). Where it sees `reach` pixels to each side,
    windows are so much larger on every side and share no more than that: every pixel then sees what it would see in
    the raster as a whole, once. shortest: the raster's shorter side.
    """
    fine = settings.scale
    if settings.overlap is None and reach is not None and size + 2 * (reach + 1) <= shortest:
        reach += fine > 1  # finer pixels lie between two of the network's
        size += 2 * reach
        return Layout(size, 2 * reach, core(fine * size, fine * reach))
    overlap = OVERLAP if settings.overlap is None else settings.overlap
    return Layout(size, min(round(overlap * size), size - 1), hill(fine * size))


class Window(NamedTuple):
    """One window of a tile, as the model takes it."""

    place: tuple[int, int]  # row, column in the raster
    images: NDArray[np.int16]  # t c h w
    days: NDArray[np.int16]  # t
    valid: NDArray[np.bool_]  # t


def predict(
    network: Segmenter, card: Card, imagery: "Imagery", canvas: Canvas | TileFiles, settings: Settings,
    device: torch.device, progress: bool = True, unlike: UnlikeTraining | None = None,
) -> int:  # fmt: skip
    """Fill what `canvas` (of the images' size times `settings.scale`) lacks and no other process claims; returns how
    many windows were run here. `network` lies on `device`, ready for inference. unlike: what fills that layer.
    """
    grid = imagery.grid
    plan = layout(settings, card.size, getattr(network, "reach", None), min(grid.height, grid.width))
    lines = tiling(settings.tile, imagery.blocks, len(imagery.days), len(card.legend.bands))
    every = tiles(grid.height, grid.width, lines, plan.size, plan.shared)
    across = sum(tile.rows == every[0].rows for tile in every)
    reader = TileReader(imagery, len(card.legend.bands), 2 * plan.size, across)
    wanted = canvas.order([tile.number for tile in every if tile.number not in canvas.done])
    total = sum(len(every[number].windows) for number in wanted)
    count = 0
    read = ((every[number], reader.read(every[number])) for number in wanted if canvas.claim(number))
    with tqdm(desc="predict", total=total, unit="window", disable=not progress) as bar:
        for tile, images in ahead(read, 1):
            fine, done = tile.finer(settings.scale), 0
            blend = Blend(fine, len(card.legend.classes) + card.legend.background, plan.weight)
            for batch in batches(windows_of(tile, images, imagery.days, plan.size, card), settings.batch):
                for window, probabilities in zip(batch, infer(network, card, batch, settings, device), strict=True):
                    blend.add((settings.scale * window.place[0], settings.scale * window.place[1]), probabilities)
                done += len(batch)
                bar.update(len(batch))
            seen = repeat(seen_of(tile, images), "h w -> (h p) (w q)", p=settings.scale, q=settings.scale)
            parts = layers(blend, seen, card, canvas)
            if unlike is not None:
                found = repeat(
                    unlike(images[:, :, *tile.own]), "h w -> 1 (h p) (w q)", p=settings.scale, q=settings.scale
                )
                parts[UNLIKE] = np.where(seen, found, np.uint8(VOID))
            canvas.fill(tile.number, fine.rows, fine.columns, parts)
            give_back_freed()
            bar.update(len(tile.windows) - done)  # those that were never seen
            count += done
    return count


def windows_of(
    tile: Tile, images: NDArray[np.int16], days: NDArray[np.int16], size: int, card: Card
) -> Iterator[Window]:
    """The windows of a tile that were ever seen, in order; dates chosen as for training. Where windows are larger than
    in training, by what their middle shows, which is as large."""
    rim = (size - card.size) // 2
    middle = slice(rim, rim + card.size)
    for row, column in tile.windows:
        top, left = row - tile.reach_rows.start, column - tile.reach_columns.start
        series = images[:, :, top : top + size, left : left + size]
        valid = (series != NODATA).any(axis=(1, 2, 3))
        if valid.any():
            kept = card.dates.kept(series[:, :, middle, middle], valid)
            kept = kept[valid[kept]]  # what is not valid is not attended to: leave it out
            yield Window((row, column), series[kept], days[kept], valid[kept])


def batches(windows: Iterator[Window], size: int) -> Iterator[list[Window]]:
    """Up to `size` windows at a time."""
    held: list[Window] = []
    for window in windows:
        held.append(window)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


def infer(
    network: Segmenter, card: Card, windows: list[Window], settings: Settings, device: torch.device
) -> NDArray[np.float32]:
    """-> b k h w: the probability of every class and pixel of the map, calibrated by the model's temperature. Where the
    map is finer than the images logits are interpolated: a border then lies where two classes are equally likely, not
    at a pixel's edge.
    """
    batch = normalise(
        stacked(windows).to(device), torch.from_numpy(card.mean).to(device), torch.from_numpy(card.std).to(device)
    )
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        logits = network(batch.images, batch.day, batch.valid)
    logits = logits.float() / card.temperature
    if settings.scale > 1:
        logits = F.interpolate(logits, scale_factor=settings.scale, mode="bilinear")
    return logits.softmax(dim=1).cpu().numpy()


def stacked(windows: list[Window]) -> RawBatch:
    """Windows as one batch, padded to the longest series."""
    size = (len(windows), max(len(window.days) for window in windows))
    images = np.full((*size, *windows[0].images.shape[1:]), NODATA, np.int16)  # b t c h w
    day, valid = np.zeros(size, np.int16), np.zeros(size, bool)
    for row, window in enumerate(windows):
        length = len(window.days)
        images[row, :length], day[row, :length], valid[row, :length] = window.images, window.days, window.valid
    nothing = torch.zeros(len(windows), 0, dtype=torch.bool)
    return RawBatch(
        torch.from_numpy(images), torch.from_numpy(day), torch.from_numpy(valid), nothing, torch.arange(len(windows))
    )  # fmt: skip


def seen_of(tile: Tile, images: NDArray[np.int16]) -> NDArray[np.bool_]:
    """h w: whether any date and band has data, over the tile's own pixels."""
    return (images[:, :, *tile.own] != NODATA).any(axis=(0, 1))


def layers(
    blend: Blend, seen: NDArray[np.bool_], card: Card, canvas: Canvas | TileFiles
) -> dict[str, NDArray[np.uint8]]:
    """The tile's pixels of every layer of the canvas, VOID where never seen; shares in percent. Some rows at a time:
    what lies between the sums and the layers is many times as large as these."""
    parts = [
        _layers(blend.mean(top, top + ROWS), seen[top : top + ROWS], card, canvas) for top in range(0, len(seen), ROWS)
    ]
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def _layers(
    mean: NDArray[np.float32], seen: NDArray[np.bool_], card: Card, canvas: Canvas | TileFiles
) -> dict[str, NDArray[np.uint8]]:
    """k h w, h w."""
    winner = mean.argmax(axis=0).astype(np.uint8) + (not card.legend.background)
    shares = np.rint(mean * PERCENT).astype(np.uint8)
    found = {CLASSES: winner[None], CONFIDENCE: shares.max(axis=0)[None]}
    if UNCERTAINTY in canvas.layers:
        found[UNCERTAINTY] = np.rint(entropy(np.moveaxis(mean, 0, -1)) * PERCENT).astype(np.uint8)[None]
    if PROBABILITY in canvas.layers:
        found[PROBABILITY] = shares
    return {name: np.where(seen, layer, VOID).astype(np.uint8) for name, layer in found.items()}
