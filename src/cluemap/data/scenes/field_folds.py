"""Whole fields in one fold each: what `split.kind` parcels or auto makes of a scene's polygons."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from cluemap.data.image_labels import FOLDS, split_of
from cluemap.data.patches import VOID
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.labels import Labelling
from cluemap.data.scenes.scene_file import NAME, Polygons, Scene, Split
from cluemap.data.scenes.spatial_split import Block, lay_blocks
from cluemap.data.splits.field_split import LEFT_OUT, FieldSplit, field_size, propose_split, split_fields, with_gap
from cluemap.errors import DataError
from cluemap.params import WindowParams


@dataclass(frozen=True, eq=False)
class FieldFolds:
    """The split of a scene by its fields. Axes: f feature of the labels."""

    folds: NDArray[np.int64]  # f, 1..5; LEFT_OUT in the gap round the test fold, and where a feature has no class
    blocks: list[Block]  # those with fields; windows fill them without a gap
    of_block: dict[str, int]  # name of a block -> its fold
    notes: list[str]


def fold_fields(scene: Scene, labels: Labelling, grid: Grid, params: WindowParams) -> FieldFolds:
    """Give every field a fold, and every block the fold of the fields whose centres lie in it.

    Raises:
        DataError: labels that are no polygons, or a split that `split_fields` refuses.
    """
    if not isinstance(scene.labels, Polygons) or labels.mapped is None:
        raise DataError(f"{NAME}: split.kind {scene.split.kind} keeps whole fields together, so it wants labels of "
                        "kind polygons: set split.kind: blocks")  # fmt: skip
    known = np.flatnonzero(labels.mapped.numbers != VOID)
    shapes = shapely.intersection(labels.mapped.tree.geometries[known], shapely.box(*grid.bounds))
    known, shapes = known[shapely.area(shapes) > 0], shapes[shapely.area(shapes) > 0]
    if not len(known):
        raise DataError(f"{NAME}: no polygon on the images has a class, so there is nothing to split")
    split, notes = fitting(scene.split, shapes, grid.pixel, params)
    side = round(split.block / grid.pixel) * grid.pixel
    classes = labels.mapped.numbers[known]
    try:
        found = split_fields(shapes, classes, side, split.gap, FOLDS, split.seed, (grid.left, grid.top))
        kept = with_gap(shapes, found.folds, _test_fold(params), split.gap)
    except DataError as error:
        raise DataError(f"{NAME}: {error}" + "".join(f"; {note}" for note in notes)) from None
    folds = np.full(len(labels.mapped.numbers), LEFT_OUT, np.int64)
    folds[known] = kept
    names = _names(found)
    laid = lay_blocks(grid, split.model_copy(update={"block": side, "gap": 0.0}), params.size)
    if labels.ground != 0:
        laid = [block for block in laid if block.name in names]
    return FieldFolds(folds, laid, _of_blocks(laid, names, split.seed), [*notes, _counted(found.folds, kept)])


def fitting(split: Split, fields: NDArray, pixel: float, params: WindowParams) -> tuple[Split, list[str]]:
    """The split with block and gap in metres; of kind auto what scene.yaml does not say is proposed, and a gap smaller
    than a field widened. Notes say what was chosen, and the windows that would suit.
    """
    if split.kind != "auto":
        return split, []
    plan, told = propose_split(fields, pixel), split.model_fields_set
    window = params.size * pixel
    gap = max(plan.gap, split.gap) if "gap" in told else plan.gap
    block = split.block if "block" in told else np.ceil(max(plan.block, window) / window) * window
    size = field_size(fields)
    widened = (
        f" (widened from {split.gap:g}: a field is {size:.0f} m a side)" if "gap" in told and gap > split.gap else ""
    )
    notes = [f"split: auto chose block {block:g} m, gap {gap:g} m{widened}"]
    if plan.window != params.size:
        suits = f"{{size: {plan.window}, stride: {plan.stride}}}"
        notes.append(f"windows of {plan.window} px would suit its fields and extent, not {params.size}: {suits} "
                     "as `windows` of the data set in params.yaml")  # fmt: skip
    return split.model_copy(update={"block": float(block), "gap": float(gap)}), notes


def straddling(labels: Labelling, grid: Grid, blocks: list[Block], folds: dict[str, int]) -> int:
    """How many labelled polygons hold pixel centres of blocks of more than one fold."""
    if labels.mapped is None or not blocks:
        return 0
    places = np.array([(block.column, block.row, block.width, block.height) for block in blocks]) * grid.pixel
    left, top, half = grid.left + places[:, 0], grid.top - places[:, 1], grid.pixel / 2
    centres = shapely.box(left + half, top - places[:, 3] + half, left + places[:, 2] - half, top - half)
    held, fields = labels.mapped.tree.query(centres, predicate="intersects")
    pairs = {(field, folds[blocks[block].name]) for block, field in zip(held.tolist(), fields.tolist(), strict=True)}
    counts = Counter(field for field, _ in pairs if labels.mapped.numbers[field] != VOID)
    return sum(count > 1 for count in counts.values())


def _test_fold(params: WindowParams) -> int:
    return next(fold for fold in range(1, FOLDS + 1) if split_of(fold, params.fold) == "test")


def _names(found: FieldSplit) -> dict[str, int]:
    """Name of every block that fields lie in, as `lay_blocks` names it -> its fold."""
    return {
        f"r{-1 - up:03d}c{across:03d}": fold
        for (across, up), fold in zip(found.cells.tolist(), found.folds.tolist(), strict=True)
    }


def _of_blocks(blocks: list[Block], names: dict[str, int], seed: int) -> dict[str, int]:
    """Blocks without a field (land that is background) are dealt out evenly."""
    order = np.random.default_rng(seed).permutation(len(blocks))
    dealt = {blocks[place].name: turn % FOLDS + 1 for turn, place in enumerate(order)}
    return {block.name: names.get(block.name, dealt[block.name]) for block in blocks}


def _counted(folds: NDArray[np.int64], kept: NDArray[np.int64]) -> str:
    held = ", ".join(map(str, np.bincount(folds, minlength=FOLDS + 1)[1:].tolist()))
    near = int((kept == LEFT_OUT).sum())
    return f"split: folds 1 to {FOLDS} hold {held} whole fields; {near} near those of the test are not learned from"
