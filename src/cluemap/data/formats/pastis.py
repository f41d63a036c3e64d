"""Published PASTIS (Zenodo 5012942): 128 px patches as .npy files, with metadata.geojson."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cluemap.data.formats.pastis_metadata import Entry, days_of_year, read_metadata, year_of
from cluemap.data.patches import VOID, CropClass, Legend, Patch, checked
from cluemap.errors import DataError, ParamsError
from cluemap.files import DAMAGED_ARRAY

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
TRUE_COLOUR = (2, 1, 0)
VOID_ID = 19  # parcels partly outside their patch
REFUSED = -1
CLASSES = (  # published id = position
    CropClass("background", "#000000"),
    CropClass("meadow", "#aec7e8"),
    CropClass("soft winter wheat", "#ff7f0e"),
    CropClass("corn", "#ffbb78"),
    CropClass("winter barley", "#2ca02c"),
    CropClass("winter rapeseed", "#98df8a"),
    CropClass("spring barley", "#d62728"),
    CropClass("sunflower", "#ff9896"),
    CropClass("grapevine", "#9467bd"),
    CropClass("beet", "#c5b0d5"),
    CropClass("winter triticale", "#8c564b"),
    CropClass("winter durum wheat", "#c49c94"),
    CropClass("fruits vegetables flowers", "#e377c2"),
    CropClass("potatoes", "#f7b6d2"),
    CropClass("leguminous fodder", "#7f7f7f"),
    CropClass("soybeans", "#c7c7c7"),
    CropClass("orchard", "#bcbd22"),
    CropClass("mixed cereal", "#dbdb8d"),
    CropClass("sorghum", "#17becf"),
    CropClass("void", "#ffffff"),
)


@dataclass(frozen=True, eq=False)
class Labelling:
    """Which published ids are classes, and what they become."""

    legend: Legend
    common: NDArray[np.int16]  # 256: published id -> common id, REFUSED where it is none


def labelling(classes: Literal["all"] | list[int], key: str = "source.classes") -> Labelling:
    """The ids of `classes` become 1..K in their order; 0 stays background, 19 becomes VOID.

    Raises:
        ParamsError: `classes` names an id that is no crop, or one twice. `key` is where it stands in params.yaml.
    """
    ids = list(range(1, VOID_ID)) if classes == "all" else list(classes)
    for position, number in enumerate(ids):
        if number not in range(1, VOID_ID) or number in ids[:position]:
            raise ParamsError(f"`{key}` holds {number}: give `all`, or crop ids 1..{VOID_ID - 1}, each once")
    if not ids:
        raise ParamsError(f"`{key}` is empty: give `all`, or crop ids 1..{VOID_ID - 1}")
    common = np.full(256, REFUSED, np.int16)
    common[0], common[VOID_ID] = 0, VOID
    common[ids] = np.arange(1, len(ids) + 1)
    legend = Legend(
        bands=BANDS,
        true_colour=TRUE_COLOUR,
        classes=tuple(CLASSES[number] for number in ids),
        background=True,
        background_colour=CLASSES[0].colour,
        void_colour=CLASSES[VOID_ID].colour,
    )
    return Labelling(legend, common)


def common_labels(target: NDArray, labels: Labelling, source: Path) -> NDArray[np.uint8]:
    """c h w or h w (published ids; channel 0 is the class) -> h w in common ids.

    Raises:
        DataError: not a map of whole numbers, or an id outside the class list. Names the file and the id.
    """
    if target.dtype.kind not in "iu" or target.ndim not in (2, 3) or 0 in target.shape:
        raise DataError(f"{source}: labels are {target.dtype} {target.shape}, not uint8 (3, h, w): fetch them again")
    published = target[0] if target.ndim == 3 else target
    inside = (published >= 0) & (published < len(labels.common))
    ids = np.where(inside, labels.common[np.where(inside, published, 0)], REFUSED)
    refused = np.unique(published[ids == REFUSED])
    if refused.size:
        names = [f"{number} ({CLASSES[number].name})" if 0 <= number < 20 else f"{number}" for number in refused]
        raise DataError(
            f"{source}: label id {', '.join(names)} is not in the class list: "
            "add it to `source.classes` in params.yaml if it is a crop, else fetch the file again"
        )
    return ids.astype(np.uint8)


@dataclass(frozen=True, eq=False)
class PastisReader:
    """Patches in the order of their ids; nothing but metadata.geojson is read before `read`."""

    root: Path
    labels: Labelling
    entries: tuple[Entry, ...]
    days: tuple[NDArray[np.int16], ...]
    years: tuple[int | None, ...]

    @property
    def legend(self) -> Legend:
        return self.labels.legend

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Patch]:
        return (self.read(index) for index in range(len(self)))

    def read(self, index: int) -> Patch:
        """Decode and check one patch; raises DataError."""
        entry, place = self.entries[index], self.entries[index].place
        source, target = _files(self.root, entry.name)
        images = load_array(source)
        labels = common_labels(load_array(target), self.labels, target)
        patch = Patch(
            name=entry.name,
            fold=entry.fold,
            split=None,
            tile=entry.tile,
            images=images,
            days=self.days[index],
            labels=labels,
            corner=place.corner if place else None,
            crs=place.crs if place else None,
            pixel=round(place.side / labels.shape[1], 6) if place else 10.0,
            source=source,
            year=self.years[index],
        )
        return checked(patch, self.legend)

    def parcel_numbers(self, index: int) -> NDArray[np.int32]:
        """h w: which parcel of its patch a pixel belongs to, 0 = none; raises DataError."""
        name = self.entries[index].name
        return read_parcel_numbers(self.root / "ANNOTATIONS" / f"ParcelIDs_{name}.npy", _files(self.root, name)[1])


def open_pastis(root: Path, classes: Literal["all"] | list[int], dataset: str = "pastis") -> PastisReader:
    """Read the metadata under `root` (or `root`/PASTIS, as the archive unpacks) and see that every file is there.

    Raises:
        DataError: no PASTIS there, missing files, a patch without dates. ParamsError: impossible `classes`.
    """
    labels = labelling(classes, f"{dataset}.source.classes")
    home = next((folder for folder in (root, root / "PASTIS") if (folder / "metadata.geojson").exists()), None)
    if home is None:
        raise DataError(
            f"no PASTIS under {root}: looked for metadata.geojson in it and in {root / 'PASTIS'}; download "
            f"https://zenodo.org/records/5012942 and unpack it there, or mend `datasets.{dataset}` in params.yaml"
        )
    path = home / "metadata.geojson"
    entries = tuple(read_metadata(path).values())
    days = tuple(days_of_year(path, entry) for entry in entries)
    years = tuple(year_of(path, entry) for entry in entries)
    missing = [file for entry in entries for file in _files(home, entry.name) if not file.exists()]
    if missing:
        raise DataError(
            f"{missing[0]} is missing ({len(missing)} files of the patches in {path} are; searched under {home}): "
            "unpack the whole archive again, or take those patches out of metadata.geojson"
        )
    return PastisReader(home, labels, entries, days, years)


def read_parcel_numbers(path: Path, target: Path) -> NDArray[np.int32]:
    """The map of parcels of one patch, as large as its labels `target`.

    Raises:
        DataError: missing, damaged, or of another size than the labels.
    """
    if not path.exists():
        raise DataError(f"{path} is missing: unpack the whole archive again (ANNOTATIONS holds one for every patch)")
    numbers, shape = load_array(path), load_array(target).shape[-2:]
    if numbers.dtype.kind not in "iu" or numbers.shape != shape or (numbers < 0).any():
        raise DataError(f"{path} holds {numbers.dtype} {numbers.shape}, not numbers of parcels {shape}: fetch it again")
    return numbers.astype(np.int32)


def load_array(path: Path) -> NDArray:
    """A .npy file, never a pickled one; raises DataError naming the file."""
    try:
        return np.load(path, allow_pickle=False)
    except DAMAGED_ARRAY as error:
        raise DataError(f"{path} cannot be read, it may be cut short ({error}): fetch it again") from None


def _files(root: Path, name: str) -> tuple[Path, Path]:
    return root / "DATA_S2" / f"S2_{name}.npy", root / "ANNOTATIONS" / f"TARGET_{name}.npy"
