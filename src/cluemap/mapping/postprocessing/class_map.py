"""A written map of classes, read back: its names, colours and counts, in strips of rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.transform import Affine, rowcol, xy
from rasterio.windows import Window

from cluemap.data.patches import VOID
from cluemap.errors import DataError

IDS = 256
ROWS = 512  # a strip: one row of blocks of a map that predict wrote
HECTARE = 10_000  # square metres


@dataclass(frozen=True)
class ClassMap:
    """One band of uint8: class ids, `void` where nothing was seen."""

    file: Path
    names: dict[int, str]  # of the classes the file names and of those it holds
    colours: dict[int, str]  # "#rrggbb", of the classes whose colour the file says
    void: int
    crs: rasterio.crs.CRS
    transform: Affine
    height: int
    width: int

    @cached_property
    def hectares_per_pixel(self) -> float:
        """Area of a pixel.

        Raises:
            DataError: the CRS is in degrees or unknown, where pixels have no one area.
        """
        if self.crs is None or not self.crs.is_projected:
            raise DataError(
                f"{self.file} is in {self.crs or 'no CRS'}, where pixels have no one area: reproject it to an "
                "equal-area CRS or the region's UTM zone first (gdalwarp -r near -t_srs EPSG:32632 ...)"
            )
        metres = self.crs.linear_units_factor[1]
        return abs(self.transform.determinant) * metres**2 / HECTARE

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """256: pixels of every value, those without data as 0."""
        counts = np.zeros(IDS, np.int64)
        for _, strip in self.strips():
            counts += np.bincount(strip.ravel(), minlength=IDS)
        counts[self.void] = 0
        return counts

    def strips(self, rows: int = ROWS) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """First row and h w of every strip, from top to bottom.

        Raises:
            DataError: the file is damaged.
        """
        try:
            with rasterio.open(self.file) as file:
                for top in range(0, self.height, rows):
                    yield top, file.read(1, window=Window(0, top, self.width, min(rows, self.height - top)))
        except (RasterioError, OSError) as error:
            raise DataError(f"{self.file} is damaged ({error}): make the map again") from error

    def places(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[NDArray, NDArray]:
        """n, n pixels -> n, n: x and y of their centres in the map's CRS."""
        x, y = xy(self.transform, rows, columns)
        return np.asarray(x), np.asarray(y)

    def pixels(self, x: NDArray, y: NDArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """n, n coordinates -> n, n: row and column, which may lie off the map."""
        rows, columns = rowcol(self.transform, x, y, op=np.floor)
        return np.asarray(rows, np.intp), np.asarray(columns, np.intp)

    def on_map(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.bool_]:
        return np.asarray((rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width))

    def values(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.uint8]:
        """n, n pixels on the map -> n: their values."""
        found = np.zeros(len(rows), np.uint8)
        for top, strip in self.strips():
            here = (rows >= top) & (rows < top + len(strip))
            found[here] = strip[rows[here] - top, columns[here]]
        return found


def open_map(path: Path) -> ClassMap:
    """Read what a map of classes says of itself. Classes that it does not name are called by their number.

    Raises:
        DataError: missing, unreadable, or no map of classes.
    """
    if not path.exists():
        raise DataError(f"{path} is missing: give a map that src/predict.py wrote")
    try:
        with rasterio.open(path) as file:
            if file.count != 1 or file.dtypes[0] != "uint8":
                raise DataError(
                    f"{path} has {file.count} bands of {file.dtypes[0]}, a map of classes has one of uint8: give the "
                    "map itself, not its confidence or probabilities"
                )
            void = VOID if file.nodata is None else int(file.nodata)
            names, colours = _names(file), _colours(file)
            plain = ClassMap(path, names, colours, void, file.crs, file.transform, file.height, file.width)
    except RasterioError as error:
        raise DataError(f"{path} cannot be read as a map ({error}): make it again") from error
    held = {int(number): str(number) for number in np.flatnonzero(plain.counts)} if not names else {}
    names.update(held)
    return plain


def _names(file: rasterio.DatasetReader) -> dict[int, str]:
    """As write_cog notes them: tags class_<id>."""
    tags = {key.removeprefix("class_"): value for key, value in file.tags(1).items() if key.startswith("class_")}
    return {int(number): name for number, name in sorted(tags.items(), key=lambda tag: int(tag[0])) if name}


def _colours(file: rasterio.DatasetReader) -> dict[int, str]:
    try:
        table = file.colormap(1)
    except ValueError:  # it has none
        return {}
    return {number: "#{:02x}{:02x}{:02x}".format(*colour[:3]) for number, colour in table.items() if colour[3]}
