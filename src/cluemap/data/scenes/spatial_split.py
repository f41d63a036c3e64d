"""The spatial split: square blocks of land, each wholly in one fold, with a gap between the windows of two blocks."""

from dataclasses import dataclass

import numpy as np

from cluemap.data.image_labels import FOLDS
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.scene_file import NAME, Split
from cluemap.data.windowing import starts
from cluemap.errors import DataError
from cluemap.params import WindowParams

MOST = 1_000_000  # blocks
RUN = 8  # windows a side that are read at once: bounds the memory


@dataclass(frozen=True)
class Piece:
    """A part of a block that is read at once."""

    block: str  # "r003c012"
    fold: int  # 1..5
    rows: slice  # pixels of the grid
    columns: slice
    offset: tuple[int, int]  # pixels within the block
    first_window: int  # number of its first window within the block


@dataclass(frozen=True)
class Block:
    name: str
    row: int  # pixels of the grid
    column: int
    height: int  # pixels without the gap; less at the scene's edge
    width: int


def lay_blocks(grid: Grid, split: Split, window: int) -> list[Block]:
    """Blocks of the grid that hold at least one window, row by row.

    Raises:
        DataError: blocks that are no whole number of pixels, or too small for a window beside the gap.
    """
    side, gap = round(split.block / grid.pixel), int(np.ceil(split.gap / grid.pixel - 1e-9))
    if side - gap < window:
        raise DataError(
            f"{NAME}: split.block {split.block:g} m less the gap {split.gap:g} m is {side - gap} px, less than a "
            f"window of {window} px: set split.block to at least {(window + gap) * grid.pixel:g}"
        )
    if (grid.height / side) * (grid.width / side) > MOST:
        raise DataError(f"{NAME}: split.block {split.block:g} m makes over {MOST} blocks of {grid}: set a larger one")
    blocks = []
    for i, row in enumerate(range(0, grid.height, side)):
        for j, column in enumerate(range(0, grid.width, side)):
            height, width = min(side - gap, grid.height - row), min(side - gap, grid.width - column)
            if min(height, width) >= window:
                blocks.append(Block(f"r{i:03d}c{j:03d}", row, column, height, width))
    return blocks


def assign_folds(blocks: list[Block], seed: int) -> dict[str, int]:
    """Block name -> fold 1..5, shuffled by the seed, as evenly as can be.

    Raises:
        DataError: fewer blocks than folds.
    """
    if len(blocks) < FOLDS:
        raise DataError(
            f"{len(blocks)} of the blocks hold labels, too few for {FOLDS} folds: set a smaller split.block "
            f"in {NAME}, or label more land"
        )
    order = np.random.default_rng(seed).permutation(len(blocks))
    return {blocks[place].name: turn % FOLDS + 1 for turn, place in enumerate(order)}


def pieces(blocks: list[Block], folds: dict[str, int], params: WindowParams) -> list[Piece]:
    """Every block in runs of windows that are read at once; windows are numbered through the block."""
    found = []
    for block in blocks:
        number = 0
        for top, height in _runs(block.height, params):
            for left, width in _runs(block.width, params):
                rows = slice(block.row + top, block.row + top + height)
                columns = slice(block.column + left, block.column + left + width)
                found.append(Piece(block.name, folds[block.name], rows, columns, (top, left), number))
                number += _count(height, params) * _count(width, params)
    return found


def _runs(length: int, params: WindowParams) -> list[tuple[int, int]]:
    """First pixel and length of each run of up to RUN windows along a side of `length` pixels."""
    firsts = starts(length, params.size, params.stride, params.flush_edge)
    groups = [firsts[i : i + RUN] for i in range(0, len(firsts), RUN)]
    return [(group[0], group[-1] + params.size - group[0]) for group in groups]


def _count(length: int, params: WindowParams) -> int:
    return len(starts(length, params.size, params.stride, params.flush_edge))
