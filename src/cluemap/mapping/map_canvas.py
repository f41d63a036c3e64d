"""A map that is being made: raw arrays on disk, filled tile by tile, which a later process can continue."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.data.patches import VOID
from cluemap.errors import DataError
from cluemap.files import read_json, write_json

IDENTITY, DONE = "identity.json", "done.txt"
CLASSES, CONFIDENCE, PROBABILITY = "classes", "confidence", "probability"


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
