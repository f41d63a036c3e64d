"""What can be mapped: a scene of the user's own, or one PASTIS patch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from cluemap.data.metadata import read_metadata
from cluemap.data.pastis import BANDS, load_array, open_pastis
from cluemap.data.patches import Legend
from cluemap.data.scene.description import NAME, read_scene
from cluemap.data.scene.grid import Grid
from cluemap.data.scene.imagery import open_imagery
from cluemap.errors import DataError


class Imagery(Protocol):
    """A raster of t dates that is read piece by piece, in the bands of the model."""

    @property
    def grid(self) -> Grid: ...
    @property
    def days(self) -> NDArray[np.int16]: ...
    @property
    def files(self) -> list[Path]: ...
    def read(self, rows: slice, columns: slice) -> NDArray[np.int16]: ...


@dataclass(frozen=True, eq=False)
class PatchImagery:
    """A PASTIS patch, wholly in memory."""

    grid: Grid
    days: NDArray[np.int16]
    files: list[Path]
    images: NDArray[np.int16]  # t c h w

    def read(self, rows: slice, columns: slice) -> NDArray[np.int16]:
        return self.images[:, :, rows, columns]


def open_source(folder: Path, legend: Legend, patch: str | None = None) -> Imagery:
    """The imagery under `folder`, in the order of the model's bands.

    Raises:
        DataError: neither scene.yaml nor metadata.geojson there, bands that are missing, a patch that is unknown.
    """
    if (folder / NAME).exists():
        return open_imagery(folder, read_scene(folder), list(legend.bands))
    home = next((home for home in (folder, folder / "PASTIS") if (home / "metadata.geojson").exists()), None)
    if home is None:
        raise DataError(
            f"{folder} holds neither {NAME} (your own scene) nor metadata.geojson (PASTIS): give --scene one"
        )
    if legend.bands != BANDS:
        raise DataError(f"the model was trained on bands {' '.join(legend.bands)}, PASTIS has {' '.join(BANDS)}")
    return _pastis(home, patch)


def fingerprint(imagery: Imagery) -> str:
    """Of the grid, the days and every file's name, size and time: another fingerprint, another map."""
    whole = hashlib.blake2b(f"{imagery.grid} {imagery.days.tolist()}".encode(), digest_size=16)
    for file in imagery.files:
        state = file.stat()
        whole.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
    return whole.hexdigest()


def _pastis(home: Path, patch: str | None) -> PatchImagery:
    names = list(read_metadata(home / "metadata.geojson"))
    if patch not in names:
        raise DataError(
            f"{home} has no patch {patch!r}: give --patch one of its {len(names)}, {', '.join(names[:5])} ..."
        )
    reader = open_pastis(home, "all")
    index = [entry.name for entry in reader.entries].index(patch)
    place = reader.entries[index].place
    if place is None:
        raise DataError(f"{home / 'metadata.geojson'}: the outline of patch {patch} is no square of a known grid")
    file = home / "DATA_S2" / f"S2_{patch}.npy"
    images = load_array(file)
    height, width = images.shape[2:]
    grid = Grid(CRS.from_user_input(place.crs), *place.corner, round(place.side / height, 6), height, width)
    return PatchImagery(grid, reader.days[index], [file], images)
