"""Overlapping windows of a raster, and how their predictions become one (pure)."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluemap.data.scenes.grid import Blocks
from cluemap.data.windowing import starts
from cluemap.errors import DataError

RIM = 1e-4  # weight of a pixel that sees beyond its window


class Tile(NamedTuple):
    """A part of the map that is made at once: its own pixels, and those of every window that touches them."""

    number: int
    rows: slice
    columns: slice
    reach_rows: slice  # up to the line that ends what is decoded for it
    reach_columns: slice
    windows: tuple[tuple[int, int], ...]  # row, column of each window in the raster, row by row

    @property
    def own(self) -> tuple[slice, slice]:
        """Rows and columns of its own pixels within what it reaches."""
        top, left = self.reach_rows.start, self.reach_columns.start
        return (
            slice(self.rows.start - top, self.rows.stop - top),
            slice(self.columns.start - left, self.columns.stop - left),
        )

    def finer(self, times: int) -> "Tile":
        """The same tile of a map whose pixels have 1 / `times` the side."""
        sides = (self.rows, self.columns, self.reach_rows, self.reach_columns)
        rows, columns, reach_rows, reach_columns = (slice(times * side.start, times * side.stop) for side in sides)
        windows = tuple((times * row, times * column) for row, column in self.windows)
        return Tile(self.number, rows, columns, reach_rows, reach_columns, windows)


def window_starts(length: int, size: int, overlap: int) -> list[int]:
    """First pixels of windows along a side; neighbours share `overlap` pixels, the last is flush with the edge.

    Raises:
        DataError: the side is shorter than a window.
    """
    if length < size:
        raise DataError(f"the scene is {length} px across, less than a window of {size} px: map a larger region")
    return starts(length, size, size - overlap, flush_edge=True)


def tiles(height: int, width: int, lines: Blocks, size: int, overlap: int) -> list[Tile]:
    """Cover h w pixels with tiles that reach up to the lines of `lines`, row by row. The windows lie on the raster, not
    on the tile, so that every pixel is the same whatever the tile's size."""
    down = list(_spans(height, lines.height, lines.top, window_starts(height, size, overlap), size))
    along = list(_spans(width, lines.width, lines.left, window_starts(width, size, overlap), size))
    return [
        Tile(number, rows, columns, reach, across, tuple((row, column) for row in mine for column in its))
        for number, ((rows, reach, mine), (columns, across, its)) in enumerate(product(down, along))
    ]


def _spans(
    length: int, side: int, first: int, starts: list[int], size: int
) -> Iterator[tuple[slice, slice, list[int]]]:
    """One side of the tiles: own pixels, those reached, first pixels of the windows. Own pixels end where a window
    starts that needs pixels beyond the line."""
    begin = 0
    for line in (*range(first or side, length, side), length):
        stop = next((start for start in starts if start + size > line), length)
        if stop > begin:
            mine = [start for start in starts if start + size > begin and start < stop]
            yield slice(begin, stop), slice(mine[0], line), mine
            begin = stop


def hill(size: int) -> NDArray[np.float32]:
    """h w: weight of a window's pixels, sin^2 along both sides; windows that overlap by half sum to 1 everywhere."""
    side = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return np.outer(side, side).astype(np.float32)


def core(size: int, reach: int) -> NDArray[np.float32]:
    """h w: weight of a window's pixels where a network sees `reach` pixels to each side: all but those that see beyond
    the window count, and those only where no other window has the pixel (at the raster's edge)."""
    side = np.full(size, RIM, np.float32)
    side[reach : size - reach] = 1.0
    return np.outer(side, side)


class Blend:
    """The weighted mean of the probabilities of all windows that saw a pixel."""

    def __init__(self, tile: Tile, classes: int, weight: NDArray[np.float32]):
        """weight: of a window's pixels, h w."""
        self.tile, self.size, self.weight = tile, len(weight), weight
        height = tile.reach_rows.stop - tile.reach_rows.start
        width = tile.reach_columns.stop - tile.reach_columns.start
        self.total = np.zeros((classes, height, width), np.float32)
        self.weights = np.zeros((height, width), np.float32)

    def add(self, place: tuple[int, int], probabilities: NDArray[np.float32]) -> None:
        """k h w of the window at `place` (row, column in the raster). Call in the order of `tile.windows`."""
        row, column = place[0] - self.tile.reach_rows.start, place[1] - self.tile.reach_columns.start
        here = np.s_[row : row + self.size, column : column + self.size]
        self.total[:, *here] += probabilities * self.weight
        self.weights[here] += self.weight

    def mean(self, top: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """k h w over the tile's own pixels, or those of its rows from `top` to `stop`; 0 where no window was added."""
        rows, columns = self.tile.own
        rows = slice(rows.start + top, rows.stop if stop is None else min(rows.start + stop, rows.stop))
        weights = np.maximum(self.weights[rows, columns], np.float32(1e-20))
        return np.asarray(self.total[:, rows, columns] / weights, np.float32)
