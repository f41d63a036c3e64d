"""The parcels of a scene: the polygons of its parcel file (or of its labels), block by block of the spatial split.

A parcel belongs to the block that holds its inner point, and only its pixels in that block count: so no land is in two
folds. Its class is that of most of its pixels' labels.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from cluemap.data.parcels.parcel import GEOMETRY, Found, cut_parcels
from cluemap.data.patches import Legend
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.labels import Shapes
from cluemap.data.scenes.scene_file import NAME, Polygons, Scene, read_scene
from cluemap.data.scenes.scene_reader import SceneReader, open_scene
from cluemap.data.scenes.vectors.geometries import of_kind
from cluemap.data.scenes.vectors.vector_files import VectorFile, read_features
from cluemap.errors import DataError
from cluemap.params import WindowParams


@dataclass(frozen=True, eq=False)
class SceneParcels:
    """Part i is block i; part 0 also counts the parcels that lie in no block."""

    reader: SceneReader
    shapes: NDArray  # polygons in the grid's CRS
    rows: NDArray[np.int64]  # of each polygon in its file, from 0
    block: NDArray[np.int64]  # of each polygon, -1 = none
    least: int
    geometry: tuple[str, ...] = GEOMETRY

    @property
    def legend(self) -> Legend:
        return self.reader.legend

    def __len__(self) -> int:
        return len(self.reader.blocks)

    def read(self, index: int) -> Found:
        """The parcels of one block; raises DataError."""
        mine = np.flatnonzero(self.block == index)
        off = int((self.block < 0).sum()) if index == 0 else 0
        counts = Counter({"off_blocks": off, "read": off})
        if not len(mine):
            return Found([], counts)
        place = place_of_block(self.reader, index)
        numbers = Shapes(shapely.STRtree(self.shapes[mine]), (self.rows[mine] + 1).astype(np.int32))
        drawn = numbers.draw(place, 0, np.int32)
        found = cut_parcels(self.reader.block(index), drawn, self.least)
        without = len(mine) - found.counts["read"]
        counts.update({**found.counts, "without_pixel_centre": without})
        counts["read"] += without
        return Found(found.parcels, counts)


def open_parcel_scene(root: Path, params: WindowParams, least: int) -> SceneParcels:
    """The scene under `root` and its parcels.

    Raises:
        DataError: see `open_scene`; no parcels, or none on the images.
    """
    scene = read_scene(root)
    reader = open_scene(root, params)
    source = _file(root, scene)
    table = of_kind(read_features(source, reader.imagery.grid).table, "polygons")
    if not len(table):
        raise DataError(f"{source.path} holds no polygons on the images: name a file of parcels in {NAME}")
    shapes = np.asarray(table.geometry.values)
    block = np.full(len(shapes), -1, np.int64)
    points = shapely.point_on_surface(shapes)
    for index in range(len(reader.blocks)):
        place = shapely.box(*place_of_block(reader, index).bounds)
        block[shapely.intersects_xy(place, shapely.get_x(points), shapely.get_y(points))] = index
    return SceneParcels(reader, shapes, np.asarray(table.index, np.int64), block, least)


def place_of_block(reader: SceneReader, index: int) -> Grid:
    """The part of the grid that a block takes, without the gap."""
    block = reader.blocks[index]
    return reader.imagery.grid.cut(
        slice(block.row, block.row + block.height), slice(block.column, block.column + block.width)
    )


def _file(root: Path, scene: Scene) -> VectorFile:
    spec = scene.parcels or (scene.labels if isinstance(scene.labels, Polygons) else None)
    if spec is None:
        raise DataError(f"{root / NAME} names no parcels: add `parcels: {{file: <polygons>}}` with the fields' borders")
    return VectorFile(root / spec.file, spec.layer, spec.crs, spec.encoding, f"set parcels.crs in {NAME}")
