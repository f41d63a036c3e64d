"""What the folds of a cross-validation predict on the land that each of them held out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy.ndimage import label

from cluemap.data.patches import VOID
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.labels import Labelling, Shapes
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.data.splits.labelled_part import with_known_labels
from cluemap.data.windows import Windows
from cluemap.model.storage.trained_models import SEGMENTER, load_segmenter
from cluemap.params import Params
from cluemap.paths import ROOT, stage_folder
from cluemap.runtime.distributed import Ranks
from cluemap.stages.evaluate import SEGMENTERS, maps_of
from cluemap.stages.train_baselines import MASKS, learners, open_maps

MAJORITY = "majority"
COLUMNS = ("truth", "field", "block")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Every held-out pixel once. Axes: p pixel."""

    truth: NDArray[np.uint8]  # p
    field: NDArray[np.int64]  # p, -1 = no field
    block: NDArray[np.int64]  # p, the block of land (a published data set: the patch)
    models: dict[str, NDArray[np.uint8]]  # name -> p


def predictions(params: Params, folds: list[Path], ranks: Ranks) -> Predictions:
    """Pool the test maps of the pipelines in these folders, one a fold; `params` of any of them."""
    parts, blocks, fields = [], dict[str, int](), FieldNumbers(params)
    for folder in folds:
        prepared = Windows.open(stage_folder(params.dataset, "prepare", folder) / "windows")
        windows = with_known_labels(prepared, params.labelled, ROOT, masks=False)
        table = windows.table.iloc[windows.indexes("test")]
        truth, size = np.asarray(windows.masks("test")), windows.card.size
        kept = once(table, size) & (truth != VOID)
        numbers = [blocks.setdefault(name, len(blocks)) for name in table["patch"]]
        block = np.broadcast_to(np.array(numbers, np.int64)[:, None, None], truth.shape)
        maps = _maps(params, folder, windows, ranks)
        models = {name: found[kept] for name, found in maps.items()}
        models[MAJORITY] = np.full(int(kept.sum()), _majority(windows), np.uint8)
        parts.append(Predictions(truth[kept], fields.of(table, truth)[kept], block[kept], models))
    truth, field, block = (np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS)
    together = {name: np.concatenate([part.models[name] for part in parts]) for name in parts[0].models}
    return Predictions(truth, field, block, together)


def once(table: pd.DataFrame, size: int) -> NDArray[np.bool_]:
    """n h w: whether a pixel is in no earlier window of its patch (windows may overlap)."""
    kept = np.zeros((len(table), size, size), bool)
    for rows in table.reset_index().groupby("patch").indices.values():
        row, column = (table[name].to_numpy()[rows] for name in ("row", "column"))
        seen = np.zeros((row.max() + size, column.max() + size), bool)
        for place, top, left in zip(rows, row, column, strict=True):
            here = seen[top : top + size, left : left + size]
            kept[place] = ~here
            here[:] = True
    return kept


class FieldNumbers:
    """Which field every pixel belongs to: the polygons of a scene; elsewhere what hangs together in one class."""

    def __init__(self, params: Params):
        self.shapes: Shapes | None = None
        self.pixel, self._count = 10.0, 0
        if params.source.format == "scene":
            reader = open_scene(params.raw, params.windows)
            self.crs, self.pixel = reader.imagery.grid.crs, reader.imagery.grid.pixel
            self.shapes = _polygons(reader.labels)

    def of(self, table: pd.DataFrame, truth: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Windows n and their truth n h w -> n h w, -1 = no field (background land)."""
        return self._grown(table, truth) if self.shapes is None else self._drawn(table, truth, self.shapes)

    def _drawn(self, table: pd.DataFrame, truth: NDArray[np.uint8], shapes: Shapes) -> NDArray[np.int64]:
        crs: CRS = self.crs
        size = truth.shape[1]
        places = [Grid(crs, x, y, self.pixel, size, size) for x, y in zip(table["x"], table["y"], strict=True)]
        return np.stack([shapes.draw(place, -1, np.int64) for place in places])

    def _grown(self, table: pd.DataFrame, truth: NDArray[np.uint8]) -> NDArray[np.int64]:
        found = np.full(truth.shape, -1, np.int64)
        size = truth.shape[1]
        for rows in table.reset_index().groupby("patch").indices.values():
            row, column = (table[name].to_numpy()[rows] for name in ("row", "column"))
            land = np.full((row.max() + size, column.max() + size), VOID, np.uint8)
            corners = list(zip(rows, row, column, strict=True))
            for place, top, left in corners:
                land[top : top + size, left : left + size] = truth[place]
            numbers = np.full(land.shape, -1, np.int64)
            for crop in set(np.unique(land).tolist()) - {0, VOID}:
                parts, count = label(land == crop)
                numbers[parts > 0] = parts[parts > 0] + self._count
                self._count += count
            for place, top, left in corners:
                found[place] = numbers[top : top + size, left : left + size]
        return found


def _polygons(labels: Labelling) -> Shapes | None:
    """The labelled polygons, numbered; None for points and areas."""
    if labels.mapped is None or labels.presence is not None:
        return None
    return Shapes(labels.mapped.tree, np.arange(len(labels.mapped.numbers), dtype=np.int32))


def _maps(params: Params, folder: Path, windows: Windows, ranks: Ranks) -> dict[str, NDArray[np.uint8]]:
    """n h w of the test windows by each model of a fold."""
    indexes, found = windows.indexes("test"), {}
    for kind, stage in SEGMENTERS.items():
        network, _ = load_segmenter(stage_folder(params.dataset, stage, folder) / "model" / SEGMENTER, windows)
        found[f"segmenter_{kind}"] = maps_of(network.to(ranks.device), windows, indexes, params, ranks)
    maps = stage_folder(params.dataset, "train_baselines", folder) / "maps"
    for name in learners(params.baselines):
        for kind in MASKS:
            found[f"{name}_{kind}"] = np.asarray(open_maps(maps, name, kind, "test", windows))
    return found


def _majority(windows: Windows) -> int:
    """The class that most labelled training pixels have; VOID without any."""
    counts = np.bincount(np.asarray(windows.masks("train")).ravel(), minlength=256)[:VOID]
    return int(counts.argmax()) if counts.any() else VOID
