"""The lists beside the Germany tiles: which split a tile is in, and where it lies."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cluemap.errors import DataError

SPLIT_FILES = {"train": "train_fold{fold}.tileids", "validation": "eval.tileids", "test": "test_fold{fold}.tileids"}
PIXEL = 10.0  # metres


class Place(NamedTuple):
    corner: tuple[float, float]  # map coordinates x, y of the upper-left corner, metres
    crs: str


def read_splits(folder: Path, fold: int) -> dict[str, list[str]]:
    """tileids/ -> the tile ids of each split, in rising order.

    Raises:
        DataError: a list is missing or holds anything but ids, or two lists hold the same tile.
    """
    splits: dict[str, list[str]] = {}
    owner: dict[str, Path] = {}
    for split, pattern in SPLIT_FILES.items():
        path = folder / pattern.format(fold=fold)
        ids = dict.fromkeys(identity for _, (identity,) in _rows(path, 1))
        for identity in ids:
            if owner.setdefault(identity, path) != path:
                raise DataError(f"{path}: tile {identity} is in {owner[identity]} too: no tile may be in two splits")
        splits[split] = sorted(ids, key=int)
    return splits


def read_places(path: Path) -> dict[str, Place]:
    """geotransforms.csv (tileid,xmin,xres,0,ymax,0,-yres,srid) -> place of each tile; raises DataError."""
    places = {}
    for line, (identity, left, width, _, top, _, height, code) in _rows(path, 8):
        try:
            numbers = [float(value) for value in (left, top, width, height)]
            crs = f"EPSG:{int(code)}"
        except ValueError:
            numbers, crs = [], ""
        if not np.isfinite(numbers).all() or numbers[2:] != [PIXEL, -PIXEL]:
            raise DataError(f"{path}: line {line} is no place of a tile of {PIXEL:.0f} m pixels: fetch the file again")
        places[identity] = Place((numbers[0], numbers[1]), crs)
    return places


def _rows(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """The lines of a comma-separated list, numbered; the first column is a tile id. A heading is passed over."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again") from None
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.split(",")]
        whole = len(cells) == columns and cells[0].isascii() and cells[0].isdigit()
        if whole:
            yield number, cells
        elif line.strip() and not (number == 1 and columns > 1):
            raise DataError(f"{path}: line {number} is {line[:80]!r}, not {columns} values that begin with a tile id")
