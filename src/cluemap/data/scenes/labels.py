"""The labels of any piece of a scene: a map of ids, or the areas that lie there and their crops."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from cluemap.data.patches import VOID, Knowledge, Legend
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.scene_file import NAME, Areas, Points, Polygons, Scene, classes_of
from cluemap.data.scenes.vectors.class_table import ClassTable, crops_of, label_ids
from cluemap.data.scenes.vectors.label_shapes import read_shapes
from cluemap.errors import DataError


class Shapes(NamedTuple):
    """Geometries in the grid's CRS with one number each, drawn in this order."""

    tree: shapely.STRtree
    numbers: NDArray[np.int32]

    def draw(self, place: Grid, ground: int, dtype: type) -> NDArray:
        """h w: the number of the last shape that holds a pixel's centre, else `ground`."""
        hit = np.sort(self.tree.query(shapely.box(*place.bounds)))
        if not len(hit):
            return np.full((place.height, place.width), ground, dtype)
        drawn = rasterize(
            zip(self.tree.geometries[hit], self.numbers[hit].tolist(), strict=True),
            out_shape=(place.height, place.width), fill=ground, transform=place.transform, dtype=np.int32,
        )  # fmt: skip
        return drawn.astype(dtype)


class Labelling:
    """What is known of the scene. `ground` is the id of land without a label."""

    def __init__(self, folder: Path, scene: Scene, grid: Grid):
        if scene.labels is None:
            raise DataError(f"{folder / NAME} has no `labels`: training needs them (maps alone do not)")
        spec, table = scene.labels, ClassTable(classes_of(scene), folder / NAME)
        self.notes: list[str] = []  # what was left out: for the user to know
        found = read_shapes(folder, spec, grid, self.notes)
        shapes, self.missed = found.table, found.off  # missed: how many features lie off the images
        self.files = [folder / name for name in (spec.file, getattr(spec, "table", None)) if name]
        self.crops: NDArray[np.bool_] | None = None  # a k
        self.cover, self.presence, self.areas = 0.5, None, None
        mapped: Polygons | Points | None
        if isinstance(spec, Areas):
            lists, self.cover = crops_of(folder, spec, shapes, table), spec.cover
            told = [number for number, names in enumerate(lists) if names is not None]
            self.crops = np.array([lists[number] for number in told])
            self.areas = Shapes(
                shapely.STRtree(np.asarray(shapes.geometry.values)[told]), np.arange(len(told), dtype=np.int32)
            )
            mapped = scene.truth
            if scene.truth:
                shapes = read_shapes(folder, scene.truth, grid, self.notes).table
                self.files.append(folder / scene.truth.file)
        else:
            mapped, self.presence = spec, 0.0 if isinstance(spec, Points) else None
        self.silence, self.keep = spec.silence, spec.keep_unlabelled
        self.mapped = None
        if mapped is not None:
            ids = label_ids(shapes, mapped, folder, table, self.notes).astype(np.int32)
            self.mapped = Shapes(shapely.STRtree(shapes.geometry.values), ids)
        outside_is_background = isinstance(mapped, Polygons) and mapped.outside == "background"
        self.of_fold: dict[int, Shapes] = {}  # with a split of whole fields: those of each fold, VOID elsewhere
        self.ground = 0 if outside_is_background else VOID
        self.background = table.has_background or outside_is_background or getattr(mapped, "others", "") == "background"
        self.legend = _legend(scene, table, self.background)

    def keep_folds(self, folds: NDArray[np.int64]) -> None:
        """From now on `ids` of a fold hide the features of the others; folds f, one number a feature."""
        if self.mapped is not None:
            tree, ids = self.mapped
            kept = {int(fold): np.where(folds == fold, ids, VOID).astype(np.int32) for fold in np.unique(folds)}
            self.of_fold = {fold: Shapes(tree, numbers) for fold, numbers in kept.items()}

    def ids(self, place: Grid, fold: int | None = None) -> NDArray[np.uint8]:
        """h w: ids of the legend, VOID where nothing is known, or known in another fold only."""
        if self.mapped is None:
            return np.full((place.height, place.width), VOID, np.uint8)
        shapes = self.mapped if fold is None else self.of_fold.get(fold, self.mapped)
        return shapes.draw(place, self.ground, np.uint8)

    def knowledge(self, place: Grid, fold: int | None = None) -> Knowledge:
        """How the windows of this piece get their image labels; of a fold, where fields are kept whole."""
        count = len(self.legend.classes)
        if self.areas is None or self.crops is None:
            hidden = self._hidden(place, fold)
            return Knowledge(count, self.presence, keep=self.keep, silence=self.silence, hidden=hidden)
        drawn = self.areas.draw(place, -1, np.int32)
        return Knowledge(count, None, drawn, self.crops, self.cover, self.silence, keep=self.keep)

    def _hidden(self, place: Grid, fold: int | None) -> NDArray[np.uint8] | None:
        """h w: ids of the fields of other folds; None where no field is hidden."""
        if fold is None or not self.of_fold:
            return None
        return np.where(self.ids(place, fold) == VOID, self.ids(place), VOID).astype(np.uint8)

    def reaches(self, place: Grid) -> bool:
        """Whether anything at all is known of this piece."""
        if self.areas is None and self.ground == 0:
            return True
        shapes = self.areas or self.mapped
        return bool(shapes is not None and len(shapes.tree.query(shapely.box(*place.bounds), predicate="intersects")))


def _legend(scene: Scene, table: ClassTable, background: bool) -> Legend:
    bands = scene.images.bands
    red, green, blue = (bands.index(band) for band in scene.images.true_colour)
    return Legend(tuple(bands), (red, green, blue), table.crops, background)
