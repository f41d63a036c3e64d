"""The one lattice of pixels that everything of a scene is brought to."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

from cluemap.errors import DataError

MOST = 200_000  # pixels a side: 2,000 km at 10 m; more is a wrong number somewhere
SAME = 0.01  # share of a pixel by which two corners may differ and still be the same


class Blocks(NamedTuple):
    """Rectangles of pixels that files are decoded in, or a map is made in: lines at top, top + height, and so on."""

    height: int = 1
    width: int = 1
    top: int = 0  # 0 .. height - 1
    left: int = 0


SINGLE = Blocks()  # nothing is decoded but the pixels asked for


@dataclass(frozen=True)
class Grid:
    """Square pixels, rows downwards from the upper-left corner (left, top)."""

    crs: CRS
    left: float
    top: float
    pixel: float
    height: int
    width: int

    @property
    def transform(self) -> Affine:
        return Affine(self.pixel, 0.0, self.left, 0.0, -self.pixel, self.top)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """x min, y min, x max, y max."""
        return (self.left, self.top - self.pixel * self.height, self.left + self.pixel * self.width, self.top)

    @property
    def name(self) -> str:
        """The CRS as text, "EPSG:32632" where it has a code."""
        return self.crs.to_string()

    def cut(self, rows: slice, columns: slice) -> "Grid":
        """The part that these pixels make up."""
        left, top = self.left + self.pixel * columns.start, self.top - self.pixel * rows.start
        return Grid(self.crs, left, top, self.pixel, rows.stop - rows.start, columns.stop - columns.start)

    def finer(self, times: int) -> "Grid":
        """The same land in pixels of 1 / `times` the side."""
        return Grid(self.crs, self.left, self.top, self.pixel / times, self.height * times, self.width * times)

    def offset(self, other: "Grid") -> tuple[int, int]:
        """Row and column at which `other`'s first pixel lies in this grid (of the same lattice)."""
        return round((self.top - other.top) / self.pixel), round((other.left - self.left) / self.pixel)

    def aligned(self, other: "Grid") -> bool:
        """Whether the two are parts of one lattice."""
        rows, columns = (self.top - other.top) / self.pixel, (self.left - other.left) / self.pixel
        off = max(abs(rows - round(rows)), abs(columns - round(columns)))
        return self.crs == other.crs and abs(self.pixel - other.pixel) < SAME * self.pixel / 1000 and off < SAME

    def __str__(self) -> str:
        return (
            f"{self.height} x {self.width} px of {self.pixel:g} m from ({self.left:.2f}, {self.top:.2f}) in {self.name}"
        )


def grid_over(crs: CRS, bounds: tuple[float, float, float, float], pixel: float) -> Grid:
    """The grid that covers `bounds`, from their upper-left corner.

    Raises:
        DataError: a CRS in degrees, or bounds without area.
    """
    if not crs.is_projected:
        raise DataError(
            f"the grid's CRS {crs.to_string()} is in degrees, but pixels are metres: set grid.crs in scene.yaml to the "
            "UTM zone of the region, e.g. EPSG:32632, and grid.resample: true"
        )
    width, height = (bounds[2] - bounds[0]) / pixel, (bounds[3] - bounds[1]) / pixel
    if not max(abs(side) for side in (width, height)) <= MOST:
        raise DataError(
            f"the images or grid.bounds span {list(bounds)} in {crs.to_string()[:40]}, more than {MOST} pixels of "
            f"{pixel:g} m: correct grid.bounds or grid.pixel in scene.yaml, or take out the image that lies far away"
        )
    if min(width, height) < 1:
        raise DataError(
            f"the grid's bounds {list(bounds)} hold no pixel of {pixel:g} m: mend grid.bounds in scene.yaml"
        )
    return Grid(crs, bounds[0], bounds[3], pixel, math.ceil(height - SAME), math.ceil(width - SAME))


def window_of(rows: slice, columns: slice) -> Window:
    return Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
