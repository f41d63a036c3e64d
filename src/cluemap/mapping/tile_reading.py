"""The images of a map's tiles, read so that no block of a file is decoded for two of them.

Files are decoded in blocks (JPEG 2000 of Sentinel-2: 1,024 px a side). Tiles are made as large as blocks, and end where
these end, less what their windows would need of the next: `overlap_blending.tiles`. What a tile shares with the next
ones, a strip at its right and lower side, is kept in memory.
"""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluemap.data.scenes.grid import Blocks
from cluemap.mapping.overlap_blending import Tile
from cluemap.runtime.memory import give_back_freed

if TYPE_CHECKING:  # GDAL is not needed to predict what lies in memory
    from cluemap.mapping.map_sources import Imagery

TILE_BYTES = 450e6  # of a tile's images; two are held at once. 21 dates of 10 bands in tiles of 1,024 px
SMALLEST, LARGEST = 120, 1024
WIDEST = 1280  # blocks up to this side are decoded whole, whatever a long series takes; 20 m bands have 640 of 20 m


class Piece(NamedTuple):
    """A part of the raster that is kept."""

    rows: slice
    columns: slice
    images: NDArray[np.int16]  # t c h w


class TileReader:
    """Reads tiles, best in their order; strips of the last row of tiles are kept for the next, and used if they fit."""

    def __init__(self, imagery: "Imagery", bands: int, edge: int, across: int):
        """edge: pixels that a tile may share with the next on either side. across: tiles in a row."""
        self.imagery, self.bands, self.edge = imagery, bands, edge
        self.below: deque[Piece] = deque(maxlen=across)
        self.beside: deque[Piece] = deque(maxlen=1)

    def read(self, tile: Tile) -> NDArray[np.int16]:
        """t c h w of all that the tile reaches."""
        rows, columns = tile.reach_rows, tile.reach_columns
        size = rows.stop - rows.start, columns.stop - columns.start
        images = np.empty((len(self.imagery.days), self.bands, *size), np.int16)
        lacking = np.ones(size, bool)
        for piece in (*self.below, *self.beside):
            here, there = _shared(rows, piece.rows), _shared(columns, piece.columns)
            mine = _within(here, rows), _within(there, columns)
            images[:, :, *mine] = piece.images[:, :, _within(here, piece.rows), _within(there, piece.columns)]
            lacking[mine] = False
        for down, along in rectangles(lacking):
            self.imagery.read(_moved(down, rows), _moved(along, columns), images[:, :, down, along])
        low, right = max(rows.start, rows.stop - self.edge), max(columns.start, columns.stop - self.edge)
        self.below.append(Piece(slice(low, rows.stop), columns, images[:, :, low - rows.start :].copy()))
        self.beside.append(Piece(rows, slice(right, columns.stop), images[..., right - columns.start :].copy()))
        give_back_freed()
        return images


def rectangles(wanted: NDArray[np.bool_]) -> Iterator[tuple[slice, slice]]:
    """h w -> rows and columns of rectangles that together are what is wanted, each pixel once."""
    top = 0
    for row in range(1, len(wanted) + 1):
        if row == len(wanted) or (wanted[row] != wanted[top]).any():
            sides = np.flatnonzero(np.diff(wanted[top], prepend=False, append=False)).tolist()
            yield from ((slice(top, row), slice(*side)) for side in zip(sides[::2], sides[1::2], strict=True))
            top = row


def tiling(asked: int, blocks: Blocks, dates: int, bands: int) -> Blocks:
    """Rows and columns of the map's tiles, and where the first end: `asked` pixels a side, or (0) whole blocks, as many
    as `fitting_tile` allows, or one where it is smaller. Blocks that are larger still (whole lines or images) and what
    has none are cut anywhere."""
    fit = fitting_tile(dates, bands)
    height, width = (asked or (fit if side > WIDEST else max(side, fit // side * side)) for side in blocks[:2])
    return Blocks(height, width, blocks.top % height, blocks.left % width)


def fitting_tile(dates: int, bands: int) -> int:
    """Pixels a side of a tile whose int16 images take up to TILE_BYTES."""
    return int(np.clip((TILE_BYTES / (2 * dates * bands)) ** 0.5, SMALLEST, LARGEST))


def _shared(one: slice, other: slice) -> slice:
    start = max(one.start, other.start)
    return slice(start, max(start, min(one.stop, other.stop)))


def _within(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _moved(part: slice, whole: slice) -> slice:
    return slice(part.start + whole.start, part.stop + whole.start)
