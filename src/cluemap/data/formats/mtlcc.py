"""Germany (MTLCC, Zenodo 5712933): tiles of 240 or 480 m, as published or as TSViT users hold them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluemap.data.formats.mtlcc_splits import PIXEL, Place, read_places, read_splits
from cluemap.data.formats.mtlcc_tile import BANDS, TRUE_COLOUR, read_tile
from cluemap.data.formats.pastis import load_array
from cluemap.data.patches import VOID, CropClass, Legend, Patch, checked
from cluemap.errors import DataError, ParamsError

UNKNOWN = 0  # published id of pixels without a label; no background class
CLASSES = {  # published id -> class; 17 of them
    1: CropClass("sugar beet", "#c5b0d5"),
    2: CropClass("summer oat", "#dbdb8d"),
    3: CropClass("meadow", "#aec7e8"),
    5: CropClass("rape", "#98df8a"),
    8: CropClass("hop", "#9467bd"),
    9: CropClass("winter spelt", "#c49c94"),
    12: CropClass("winter triticale", "#8c564b"),
    13: CropClass("beans", "#7f7f7f"),
    15: CropClass("peas", "#e377c2"),
    16: CropClass("potatoes", "#f7b6d2"),
    17: CropClass("soybeans", "#c7c7c7"),
    19: CropClass("asparagus", "#17becf"),
    22: CropClass("winter wheat", "#ff7f0e"),
    23: CropClass("winter barley", "#2ca02c"),
    24: CropClass("winter rye", "#1f77b4"),
    25: CropClass("summer barley", "#d62728"),
    26: CropClass("maize", "#ffbb78"),
}
REFUSED = -1
FULL = Path("data_IJGI18", "datasets", "full")

Tiles = Literal[240, 480, "240pkl"]


class Entry(NamedTuple):
    path: Path
    year: int
    tile: str
    split: str


@dataclass(frozen=True)
class MtlccReader:
    """Tiles in the order of split, year and tile id; no tile is read before `read`."""

    legend: Legend
    common: NDArray[np.int16]  # 256: published id -> common id, REFUSED where it is none
    entries: tuple[Entry, ...]
    places: dict[str, Place]  # by tile id; empty without geotransforms.csv
    side: int  # pixels of a tile
    absent: int  # listed tiles that have no file here: people hold parts of the 40 GB

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Patch]:
        return (self.read(index) for index in range(len(self)))

    def read(self, index: int) -> Patch:
        """Decode and check one tile; raises DataError."""
        entry = self.entries[index]
        tile, place = read_tile(entry.path, self.side), self.places.get(entry.tile)
        patch = Patch(
            name=f"{entry.year}_{entry.tile}",
            fold=None,
            split=entry.split,
            tile=entry.tile,
            images=tile.images,
            days=tile.days,
            labels=common_labels(tile.labels, self.common, entry.path),
            corner=place.corner if place else None,
            crs=place.crs if place else None,
            pixel=PIXEL,
            source=entry.path,
            year=entry.year,
        )
        return checked(patch, self.legend)

    def parcel_numbers(self, index: int) -> NDArray[np.int32]:
        """h w: which parcel a pixel belongs to, 0 = none. The published tiles do not say; the built-in ones do.

        Raises:
            DataError: there is no such file, or it is damaged.
        """
        tile = self.entries[index].path
        path = parcel_file(tile)
        if not path.exists():
            raise DataError(
                f"{path} is missing: the published tiles hold no parcels. Put one array of numbers (int32, "
                f"{self.side} x {self.side}, 0 = no parcel) a tile there, or make a scene with its fields' borders"
            )
        numbers = load_array(path)
        if numbers.dtype.kind not in "iu" or numbers.shape != (self.side, self.side) or (numbers < 0).any():
            raise DataError(f"{path} holds {numbers.dtype} {numbers.shape}, not numbers of parcels: make it again")
        return numbers.astype(np.int32)


def open_mtlcc(
    root: Path, classes: Literal["all"] | list[int] = "all", tiles: Tiles = 240, years: tuple[int, ...] = (2016,),
    fold: int = 0, dataset: str = "germany",
) -> MtlccReader:  # fmt: skip
    """Find the tiles of the three splits under `root`, the folder that holds data_IJGI18 (or what lies in it).

    `tiles` is the published folder: 240 or 480 (metres, TFRecords), or 240pkl (TSViT's pickles).

    Raises:
        DataError: nothing there, no tile of a split, a tile in two splits, damaged lists. ParamsError: bad `classes`.
    """
    legend, common = labelling(classes, f"{dataset}.source.classes")
    full = _full(root, tiles, dataset)
    home, ids = full / str(tiles), read_splits(_beside(full, tiles, "tileids"), fold)
    entries, absent = _entries(home, ids, tiles, years)
    for split, listed in ids.items():
        if not any(entry.split == split for entry in entries):
            folders = ", ".join(f"data{year % 100}" for year in years)
            raise DataError(
                f"{home} has none of the {len(listed)} tiles of the {split} split in {folders}: unpack the archive "
                f"there, or mend `{dataset}.source` (tiles, years, fold) in params.yaml"
            )
    csv = _beside(full, tiles, "geotransforms.csv")
    places = read_places(csv) if csv.exists() else {}
    return MtlccReader(legend, common, entries, places, 48 if tiles == 480 else 24, absent)


def parcel_file(tile: Path) -> Path:
    """Where the parcels of a tile lie: parcels17/<id>.npy beside data17/<id>.tfrecord.gz."""
    return tile.parent.with_name(tile.parent.name.replace("data", "parcels")) / f"{tile.name.partition('.')[0]}.npy"


def find_tile(root: Path, name: str) -> tuple[Path, int, Place | None] | None:
    """The tile <year>_<id> (the name of its patch), searched in all published folders under `root`: its file, its
    pixels a side, and its place where geotransforms.csv tells it. None: there is no such file."""
    year, _, tile = name.partition("_")
    for tiles, side, ending in ((240, 24, ".tfrecord.gz"), (480, 48, ".tfrecord.gz"), ("240pkl", 24, ".pickle")):
        for full in _homes(root):
            path = full / str(tiles) / f"data{year[-2:]}" / (tile + ending)
            if path.is_file():
                csv = _beside(full, tiles, "geotransforms.csv")
                return path, side, read_places(csv).get(tile) if csv.exists() else None
    return None


def labelling(classes: Literal["all"] | list[int], key: str) -> tuple[Legend, NDArray[np.int16]]:
    """-> the legend and the table from published to common ids: `classes` become 1..K in their order, 0 VOID.

    Raises:
        ParamsError: `classes` names an id that is no crop, or one twice. `key` is where it stands in params.yaml.
    """
    ids = list(CLASSES) if classes == "all" else list(classes)
    wrong = [number for place, number in enumerate(ids) if number not in CLASSES or number in ids[:place]]
    if wrong or not ids:
        raise ParamsError(f"`{key}` holds {wrong or 'nothing'}: give `all`, or ids of {list(CLASSES)}, each once")
    common = np.full(256, REFUSED, np.int16)
    common[UNKNOWN] = VOID
    common[ids] = np.arange(1, len(ids) + 1)
    return Legend(BANDS, TRUE_COLOUR, tuple(CLASSES[number] for number in ids), background=False), common


def common_labels(published: NDArray[np.int64], common: NDArray[np.int16], source: Path) -> NDArray[np.uint8]:
    """h w in published ids -> h w in common ids; raises DataError naming the file and the ids that are no class."""
    inside = (published >= 0) & (published < len(common))
    ids = np.where(inside, common[np.where(inside, published, 0)], REFUSED)
    refused = np.unique(published[ids == REFUSED])
    if refused.size:
        names = [f"{number} ({CLASSES[number].name})" if number in CLASSES else f"{number}" for number in refused]
        raise DataError(
            f"{source}: label id {', '.join(names)} is not in the class list: "
            "add it to `source.classes` in params.yaml if it is a crop, else fetch the file again"
        )
    return ids.astype(np.uint8)


def _full(root: Path, tiles: Tiles, dataset: str) -> Path:
    """The folder that holds 240, 480 and 240pkl."""
    folders = _homes(root)
    found = next((folder for folder in folders if (folder / str(tiles)).is_dir()), None)
    if found is None:
        raise DataError(
            f"no Germany under {root}: looked for a folder {tiles} in {', '.join(map(str, folders))}; download "
            f"https://zenodo.org/records/5712933 and unpack it there, or mend `datasets.{dataset}` in params.yaml"
        )
    return found


def _homes(root: Path) -> list[Path]:
    """Where the published folders can lie: in `root`, or as deep below it as the archive has them."""
    return [root, *(root / Path(*FULL.parts[depth:]) for depth in range(len(FULL.parts)))]


def _beside(full: Path, tiles: int | str, name: str) -> Path:
    """A list of the tiles; the pickles' lie with the tiles that they were made of."""
    return next(
        (path for path in (full / str(tiles) / name, full / "240" / name) if path.exists()), full / str(tiles) / name
    )


def _entries(
    home: Path, ids: dict[str, list[str]], tiles: Tiles, years: tuple[int, ...]
) -> tuple[tuple[Entry, ...], int]:
    """-> every listed tile that has a file, and how many have none. The year is the folder's (see GERMANY.md)."""
    ending = ".pickle" if tiles == "240pkl" else ".tfrecord.gz"
    entries = []
    for year in years:
        folder = home / f"data{year % 100}"
        here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        for split, listed in ids.items():
            found = [name for name in listed if name + ending in here]
            entries += [Entry(folder / (name + ending), year, name, split) for name in found]
    wanted = sum(map(len, ids.values())) * len(years)
    return tuple(entries), wanted - len(entries)
