"""A map that is being made: raw arrays on disk, filled tile by tile, which a later process can continue."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cluemap.data.patches import VOID
from cluemap.errors import DataError
from cluemap.files import DAMAGED_ARRAY, atomic, read_json, write_json

IDENTITY, DONE, TILES = "identity.json", "done.txt", "tiles"
CLASSES, CONFIDENCE, UNCERTAINTY, PROBABILITY = "classes", "confidence", "uncertainty", "probability"
UNLIKE = "unlike"  # the training: percent of held-out pixels that are less so


class Canvas:
    """Layers of uint8 (bands h w), all VOID at first; a tile that is said to be done is never made again."""

    def __init__(self, folder: Path, height: int, width: int, layers: dict[str, int], identity: dict[str, Any]):
        self.folder, self.height, self.width, self.layers = folder, height, width, layers
        self.resumed = self._is_mine(identity)
        if not self.resumed:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name, bands in layers.items():
                self._make(name, bands)
            write_json(folder / IDENTITY, identity)
        lines = (folder / DONE).read_text().split("\n")[:-1] if (folder / DONE).exists() else []  # whole ones
        self.done = {int(line) for line in lines if line.isdigit()}

    def file(self, name: str) -> Path:
        """uint8, bands h w, nothing else."""
        return self.folder / f"{name}.raw"

    def fill(self, number: int, rows: slice, columns: slice, parts: dict[str, NDArray[np.uint8]]) -> None:
        """Write one tile's pixels (bands h w each), then note that it is done."""
        for name, part in parts.items():
            layer = self.open(name, "r+")
            layer[:, rows, columns] = part
            layer.flush()
            del layer  # its pages need not stay in memory
        with (self.folder / DONE).open("a") as file:
            file.write(f"{number}\n")
        self.done.add(number)

    def claim(self, number: int) -> bool:
        """Whether this process is to make a tile: here there is no other one."""
        return True

    def order(self, numbers: list[int]) -> list[int]:
        """In which order this process makes tiles."""
        return numbers

    def take_in(self) -> None:
        """Fill in the tiles that `TileFiles` hold, of processes that have ended or died, and forget all claims."""
        for file in sorted((self.folder / TILES).glob("*.npz")):
            number, place, parts = _read_tile(file)
            if parts:  # else it is made again
                self.fill(number, *place, parts)
            file.unlink()
        shutil.rmtree(self.folder / TILES, ignore_errors=True)

    def open(self, name: str, mode: Any = "r") -> np.memmap:
        """bands h w, memory-mapped."""
        return np.memmap(self.file(name), np.uint8, mode, shape=(self.layers[name], self.height, self.width))

    def strips(self, rows: int = 1024) -> Iterator[tuple[slice, dict[str, NDArray[np.uint8]]]]:
        """All layers from top to bottom, some rows at a time."""
        for top in range(0, self.height, rows):
            here = slice(top, min(top + rows, self.height))
            yield here, {name: np.array(self.open(name)[:, here]) for name in self.layers}

    def _make(self, name: str, bands: int) -> None:
        row = bytes([VOID]) * self.width
        try:
            with self.file(name).open("wb") as file:
                for _ in range(bands * self.height):
                    file.write(row)
        except OSError as error:
            raise DataError(f"{self.file(name)} cannot be written ({error}): free some room and run again") from error

    def _is_mine(self, identity: dict[str, Any]) -> bool:
        """Whether the folder holds the same map, begun by an earlier process."""
        try:
            same = read_json(self.folder / IDENTITY) == identity
        except DataError:
            return False
        sizes = {name: bands * self.height * self.width for name, bands in self.layers.items()}
        return same and all(
            self.file(name).exists() and self.file(name).stat().st_size == sizes[name] for name in sizes
        )


class TileFiles:
    """Where one of several processes puts the tiles that it makes: a file each, which the canvas takes in at the end.

    So no two processes, perhaps of two machines, ever write into one file.
    """

    def __init__(self, canvas: Path, layers: Mapping[str, int], done: set[int], rank: int = 0, world: int = 1):
        """canvas: its folder; done: the tiles that it holds already; this process's rank among how many."""
        self.folder, self.layers, self.done = canvas / TILES, dict(layers), done
        self.rank, self.world = rank, world
        self.folder.mkdir(exist_ok=True)

    def order(self, numbers: list[int]) -> list[int]:
        """A share of its own first, whose tiles lie side by side and are read best together; then what others have
        left, from the end, where they come last."""
        first, last = (len(numbers) * rank // self.world for rank in (self.rank, self.rank + 1))
        return [*numbers[first:last], *reversed(numbers[:first] + numbers[last:])]

    def claim(self, number: int) -> bool:
        """Whether this process is to make the tile: none has said so before. A file that only one can make says it."""
        try:
            (self.folder / f"{number}.claim").open("x").close()
        except FileExistsError:
            return False
        return True

    def fill(self, number: int, rows: slice, columns: slice, parts: dict[str, NDArray[np.uint8]]) -> None:
        """As the canvas: one tile's pixels (bands h w each)."""
        place = np.array([[rows.start, rows.stop], [columns.start, columns.stop]])
        with atomic(self.folder / f"{number}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, place=place, **parts)  # type: ignore[arg-type]
        self.done.add(number)


def _read_tile(file: Path) -> tuple[int, tuple[slice, slice], dict[str, NDArray[np.uint8]]]:
    """Number, rows and columns, pixels by layer; no pixels where the file is damaged."""
    try:
        with np.load(file, allow_pickle=False) as found:
            parts = {name: found[name] for name in found.files}
        rows, columns = parts.pop("place").tolist()
    except (*DAMAGED_ARRAY, BadZipFile, KeyError):
        return int(file.stem), (slice(0), slice(0)), {}
    return int(file.stem), (slice(*rows), slice(*columns)), parts
