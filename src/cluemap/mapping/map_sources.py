"""What can be mapped: a scene of the user's own, one PASTIS patch, or one Germany tile."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from cluemap.data.formats import mtlcc, mtlcc_splits, mtlcc_tile, pastis
from cluemap.data.formats.pastis_metadata import days_of_year, read_metadata
from cluemap.data.patches import Legend
from cluemap.data.scenes.grid import SINGLE, Blocks, Grid
from cluemap.data.scenes.imagery import open_imagery
from cluemap.data.scenes.scene_file import NAME, read_scene
from cluemap.errors import DataError


class Imagery(Protocol):
    """A raster of t dates that is read piece by piece, in the bands of the model."""

    @property
    def grid(self) -> Grid: ...
    @property
    def days(self) -> NDArray[np.int16]: ...
    @property
    def files(self) -> list[Path]: ...
    @property
    def settings(self) -> str:
        """How the files are read, in whatever words."""
        ...

    @property
    def blocks(self) -> Blocks:
        """In what rectangles it is decoded."""
        ...

    def read(self, rows: slice, columns: slice, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
        """t c h w, in `out` where it is given."""
        ...


@dataclass(frozen=True, eq=False)
class PatchImagery:
    """A patch of a published data set, wholly in memory."""

    grid: Grid
    days: NDArray[np.int16]
    files: list[Path]
    images: NDArray[np.int16]  # t c h w
    settings: str = "as published"
    blocks: Blocks = SINGLE

    def read(self, rows: slice, columns: slice, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
        found = self.images[:, :, rows, columns]
        if out is None:
            return found
        out[:] = found
        return out


def open_source(folder: Path, legend: Legend, patch: str | None = None) -> Imagery:
    """The imagery under `folder`, in the order of the model's bands. `patch`: which one of PASTIS (10000) or Germany
    (2016_43757), as `prepare` names it.

    Raises:
        DataError: no scene and no data set there, bands that are missing, a patch that is unknown or lies nowhere.
    """
    if (folder / NAME).exists():
        return open_imagery(folder, read_scene(folder), list(legend.bands))  # its values are looked at by `compare`
    home = next((home for home in (folder, folder / "PASTIS") if (home / "metadata.geojson").exists()), None)
    tile = mtlcc.find_tile(folder, patch) if patch and not home else None
    if home is None and tile is None:
        raise DataError(
            f"{folder} holds neither {NAME} (your own scene) nor metadata.geojson (PASTIS) nor the Germany tile "
            f"--patch {patch}: give --scene one of them"
        )
    bands = pastis.BANDS if home else mtlcc_tile.BANDS
    if legend.bands != bands:
        raise DataError(f"the model was trained on bands {' '.join(legend.bands)}, {folder} has {' '.join(bands)}")
    return _germany(*tile) if tile else _pastis(home or folder, patch)


def fingerprint(imagery: Imagery) -> str:
    """Of the grid, the days, how files are read, and every file's name, size and time: another one, another map."""
    whole = hashlib.blake2b(f"{imagery.grid} {imagery.days.tolist()} {imagery.settings}".encode(), digest_size=16)
    for file in imagery.files:
        for part in sorted(file.rglob("*")) if file.is_dir() else [file]:  # a Zarr store is a folder
            state = part.stat()
            whole.update(f"{part} {state.st_size} {state.st_mtime_ns}\n".encode())
    return whole.hexdigest()


def _pastis(home: Path, patch: str | None) -> PatchImagery:
    metadata = home / "metadata.geojson"
    entries = read_metadata(metadata)
    entry = entries.get(patch or "")
    if entry is None:
        raise DataError(
            f"{home} has no patch {patch!r}: give --patch one of its {len(entries)}, {', '.join(list(entries)[:5])} ..."
        )
    place = entry.place
    if place is None:
        raise DataError(f"{metadata}: the outline of patch {patch} is no square of a known grid")
    file = home / "DATA_S2" / f"S2_{patch}.npy"
    images, days = pastis.load_array(file), days_of_year(metadata, entry)
    if images.ndim != 4 or len(images) != len(days):
        raise DataError(f"{file} is {images.shape}, but {metadata} gives {len(days)} dates: fetch both again")
    height, width = images.shape[2:]
    grid = Grid(CRS.from_user_input(place.crs), *place.corner, round(place.side / height, 6), height, width)
    return PatchImagery(grid, days, [file], images)


def _germany(file: Path, side: int, place: mtlcc_splits.Place | None) -> PatchImagery:
    if place is None:
        raise DataError(f"{file}: geotransforms.csv beside it does not say where this tile lies, so it has no map")
    tile = mtlcc_tile.read_tile(file, side)
    grid = Grid(CRS.from_user_input(place.crs), *place.corner, mtlcc_splits.PIXEL, side, side)
    return PatchImagery(grid, tile.days, [file], tile.images)
