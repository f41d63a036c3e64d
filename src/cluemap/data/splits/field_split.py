"""A split of fields into folds: whole fields, whole blocks of land, classes as even as can be; a gap round the test."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from cluemap.errors import DataError

LEFT_OUT = 0  # the fold of fields that lie in the gap
BLOCKS_PER_FOLD = (
    3  # that a proposal aims at: of 109 fields the gap then costs a quarter of the training, with 5 a third
)


@dataclass(frozen=True)
class FieldSplit:
    """Fold 1..F of every field."""

    folds: NDArray[np.int64]  # n
    blocks: NDArray[np.int64]  # n, number of the block that a field's centre lies in
    cells: NDArray[np.int64]  # n 2, that block's place: whole blocks right of and above the origin

    def table(self, classes: NDArray) -> pd.DataFrame:
        """Fields per fold (rows) and class (columns)."""
        return pd.crosstab(pd.Series(self.folds, name="fold"), pd.Series(np.asarray(classes), name="class"))


def split_fields(
    fields: NDArray, classes: NDArray, block: float, gap: float, folds: int = 5, seed: int = 0,
    origin: tuple[float, float] = (0.0, 0.0),
) -> FieldSplit:  # fmt: skip
    """n polygons in metres, n classes -> folds. A field belongs to the block of `block` metres that its centre lies in,
    blocks to the fold that keeps the classes most even. Blocks are counted from `origin` (x, y), a corner of one. For
    `gap` see `with_gap`.

    Raises:
        DataError: no fields, a gap smaller than a field, or fewer blocks than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # half a second: only where it is asked for

    _check(fields, classes, block, gap)
    centres = shapely.centroid(fields)
    places = np.stack([shapely.get_x(centres), shapely.get_y(centres)], axis=1) - np.array(origin)
    cells = np.floor(places / block).astype(np.int64)
    blocks = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    if blocks.max() + 1 < folds:
        raise DataError(
            f"the {len(fields)} fields lie in {blocks.max() + 1} blocks of {block:g} m, too few for {folds} folds: set "
            "a smaller split.block, or label more land"
        )
    found = np.zeros(len(fields), np.int64)
    maker = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, held) in enumerate(maker.split(fields, _frequent(classes, folds), blocks), 1):
        found[held] = number
    return FieldSplit(found, blocks, cells)


def with_gap(fields: NDArray, folds: NDArray[np.int64], test: int, gap: float) -> NDArray[np.int64]:
    """n, n -> n: LEFT_OUT for the fields of other folds that lie nearer than `gap` metres to a field of fold `test`.

    Every field is tested in its turn, and nothing near it has been learned from. Training and validation fields may be
    neighbours: the validation only chooses.

    Raises:
        DataError: no other field is left.
    """
    tested = folds == test
    others = np.flatnonzero(~tested)
    near, distance = shapely.STRtree(fields[tested]).query_nearest(
        fields[others], max_distance=gap, return_distance=True, all_matches=False
    )
    left = folds.copy()
    left[others[near[0][distance < gap]]] = LEFT_OUT
    if not ((left != LEFT_OUT) & ~tested).any():
        raise DataError(
            f"a gap of {gap:g} m round the fields of fold {test} leaves no field to train on: set a larger "
            "split.block, or a smaller split.gap"
        )
    return left


def field_size(fields: NDArray) -> float:
    """Metres: the side of a square as large as the median field."""
    return float(np.sqrt(np.median(shapely.area(fields))))


@dataclass(frozen=True)
class SplitProposal:
    """What suits a region's fields."""

    block: float  # metres
    gap: float  # metres
    window: int  # pixels a side
    stride: int


def propose_split(fields: NDArray, pixel: float, folds: int = 5) -> SplitProposal:
    """n polygons in metres -> block, gap, window and stride from the fields' sizes and the extent of them all.

    The gap is one field, a window two (8 to 24 pixels, even), and the blocks are as large as leaves five to each fold,
    but hold at least a window beside the gap.
    """
    left, bottom, right, top = shapely.total_bounds(fields)
    size = field_size(fields)
    window = int(np.clip(2 * round(size / pixel), 8, 24))
    even = np.sqrt(max(right - left, pixel) * max(top - bottom, pixel) / (BLOCKS_PER_FOLD * folds))
    gap = np.ceil(size / pixel) * pixel
    block = max(np.floor(even / pixel), window + gap / pixel) * pixel
    return SplitProposal(float(block), float(gap), window, max(1, window // 2))


def _check(fields: NDArray, classes: NDArray, block: float, gap: float) -> None:
    if not len(fields) or len(fields) != len(classes):
        raise DataError(
            f"{len(fields)} fields with {len(classes)} classes cannot be split: label fields, one class each"
        )
    size = field_size(fields)
    if gap < size:
        raise DataError(
            f"split.gap {gap:g} m is less than a field ({size:.0f} m a side at the median), so neighbours that are "
            f"farmed alike would be in training and test: set split.gap to {np.ceil(size):g} or more"
        )
    if block <= gap:
        raise DataError(f"split.block {block:g} m is no more than split.gap {gap:g} m: set a larger split.block")


def _frequent(classes: NDArray, folds: int) -> NDArray[np.int64]:
    """n -> n: numbers of the classes; with fewer fields than folds they count as the largest."""
    numbers = np.unique(np.asarray(classes), return_inverse=True)[1].reshape(-1)
    counts = np.bincount(numbers)
    return np.where(counts[numbers] < folds, counts.argmax(), numbers).astype(np.int64)
