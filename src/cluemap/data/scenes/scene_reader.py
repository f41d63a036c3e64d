"""A scene as a reader of patches: pieces of the blocks of its spatial split, read one by one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np

from cluemap.data.patches import NODATA, Legend, Patch, checked
from cluemap.data.scenes.field_folds import FieldFolds, fold_fields, straddling
from cluemap.data.scenes.imagery import Imagery, open_imagery
from cluemap.data.scenes.labels import Labelling
from cluemap.data.scenes.reflectance import check_level
from cluemap.data.scenes.scene_file import NAME, Polygons, Scene, read_scene
from cluemap.data.scenes.seasons import of_years
from cluemap.data.scenes.spatial_split import Block, Piece, assign_folds, lay_blocks, pieces
from cluemap.errors import DataError
from cluemap.params import WindowParams


@dataclass(frozen=True, eq=False)
class SceneReader:
    """Patch i is piece i; a window of it about which nothing is known, or that was never seen, is left out."""

    file: Path
    imagery: Imagery
    labels: Labelling
    pieces: list[Piece]
    blocks: tuple[Block, ...] = ()  # of the spatial split, those that hold labels
    fields: FieldFolds | None = None  # of a split that keeps fields whole
    straddling: int = 0  # fields that lie in blocks of two folds, in a split that does not
    folds: dict[str, int] = field(default_factory=dict)  # of the blocks, by name

    @property
    def legend(self) -> Legend:
        return self.labels.legend

    @property
    def files(self) -> list[Path]:
        """Everything that is read, wherever it lies: unfinished work of other files is of no use."""
        return [self.file, *self.imagery.files, *self.labels.files]

    @property
    def notes(self) -> list[str]:
        """What was left out of images and labels, and what is odd about them."""
        return [*self.imagery.notes, *self.labels.notes, *self.split_notes, *of_years(self.imagery.dates)]

    @property
    def split_notes(self) -> list[str]:
        """What the split made of the fields."""
        if self.fields is not None:
            return self.fields.notes
        if not self.straddling:
            return []
        return [f"{self.straddling} of the polygons lie in blocks of two folds, so pixels of one field train and test: "
                f"set split.kind: auto (or parcels) in {NAME}, which keeps fields whole"]  # fmt: skip

    @property
    def dates(self) -> tuple[date, ...]:
        """Of all images, rising; those without data on a piece are not in its series."""
        return self.imagery.dates

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[Patch]:
        return (self.read(index) for index in range(len(self)))

    def read(self, index: int) -> Patch:
        """Read one piece: its dates with any data (one if there are none), its labels; raises DataError."""
        return self._patch(self.pieces[index])

    def block(self, index: int) -> Patch:
        """Read one whole block of the spatial split as `read` does."""
        block, fold = self.blocks[index], self.folds[self.blocks[index].name]
        rows, columns = slice(block.row, block.row + block.height), slice(block.column, block.column + block.width)
        return self._patch(Piece(block.name, fold, rows, columns, (0, 0), 0))

    def _patch(self, piece: Piece) -> Patch:
        grid = self.imagery.grid
        place = grid.cut(piece.rows, piece.columns)
        images = self.imagery.read(piece.rows, piece.columns)
        seen = (images != NODATA).any(axis=(1, 2, 3))
        kept = seen if seen.any() else np.arange(len(seen)) == 0
        patch = Patch(
            name=piece.block,
            fold=piece.fold,
            split=None,
            tile="",
            images=images if kept.all() else images[kept],
            days=self.imagery.days[kept],
            labels=self.labels.ids(place, piece.fold),
            corner=(place.left, place.top),
            crs=grid.name,
            pixel=grid.pixel,
            source=self.file,
            first_window=piece.first_window,
            offset=piece.offset,
            year=self.dates[len(self.dates) // 2].year if self.dates else None,
            knowledge=self.labels.knowledge(place, piece.fold),
        )
        return checked(patch, self.legend)


def open_scene(root: Path, params: WindowParams) -> SceneReader:
    """Read `root`/scene.yaml, find images and labels, and lay out the spatial split.

    Raises:
        DataError: see `read_scene`, `open_imagery`, `Labelling`, `lay_blocks`, `assign_folds`, `fold_fields`.
    """
    scene = read_scene(root)
    imagery = open_imagery(root, scene)
    check_level(imagery, root)
    return split_scene(root, scene, imagery, Labelling(root, scene, imagery.grid), params)


def split_scene(root: Path, scene: Scene, imagery: Imagery, labels: Labelling, params: WindowParams) -> SceneReader:
    """Lay out the spatial split of a scene whose images and labels are open; a split of whole fields tells the labels.

    Raises:
        DataError: see `lay_blocks`, `assign_folds`, `fold_fields`.
    """
    if scene.split.kind != "blocks":
        fields = fold_fields(scene, labels, imagery.grid, params)
        labels.keep_folds(fields.folds)
        found = _labelled(pieces(fields.blocks, fields.of_block, params), labels, imagery)
        return SceneReader(root / NAME, imagery, labels, found, tuple(fields.blocks), fields, folds=fields.of_block)

    def reaches(block: Block) -> bool:
        rows, columns = slice(block.row, block.row + block.height), slice(block.column, block.column + block.width)
        return labels.reaches(imagery.grid.cut(rows, columns))

    blocks = [block for block in lay_blocks(imagery.grid, scene.split, params.size) if reaches(block)]
    if not blocks:
        raise DataError(f"{root / NAME}: no block of the spatial split holds a label: set another split.block")
    folds = assign_folds(blocks, scene.split.seed)
    found = _labelled(pieces(blocks, folds, params), labels, imagery)
    torn = straddling(labels, imagery.grid, blocks, folds) if isinstance(scene.labels, Polygons) else 0
    return SceneReader(root / NAME, imagery, labels, found, tuple(blocks), straddling=torn, folds=folds)


def _labelled(found: list[Piece], labels: Labelling, imagery: Imagery) -> list[Piece]:
    """The pieces of which anything is known; all of them where unlabelled windows stay."""
    if labels.keep or (labels.ground == 0 and labels.areas is None):
        return found
    return [piece for piece in found if labels.reaches(imagery.grid.cut(piece.rows, piece.columns))]
