"""PSE-TAE's own layout (Sainte Fare Garnot et al. 2020) and its forks: one file of pixels a parcel.

    DATA/<id>.npy          t c s, whole numbers or reflectance as a fraction
    META/labels.json       {nomenclature: {id: number}}
    META/dates.json        {"0": 20190112, ...} for all parcels, or {id: ["2024-10-25", ...]}
    META/geomfeat.json     {id: [numbers]}

A pixel whose bands are all 0, all -10000 or not a number was not seen. normvals.pkl is not read: statistics are those
of the training parcels. The layout has no folds: parcels of every class are dealt out to 5 folds by a fixed seed.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.data.formats.pastis import BANDS, TRUE_COLOUR, load_array
from cluemap.data.parcels.parcel import Found, Parcel
from cluemap.data.patches import NODATA, VOID, CropClass, Legend
from cluemap.data.scenes.scene_file import COLOURS
from cluemap.errors import DataError
from cluemap.files import read_json
from cluemap.params import PsetaeSource

FOLDS = 5
TOGETHER = 64  # parcels of one part
BRIGHTEST = 32767  # what int16 holds; brighter pixels are cut off there


@dataclass(frozen=True, eq=False)
class PsetaeParcels:
    """Parcels in the order of their ids, TOGETHER to a part."""

    root: Path
    legend: Legend
    geometry: tuple[str, ...]
    ids: tuple[str, ...]
    crops: dict[str, int]
    folds: dict[str, int]
    days: dict[str, NDArray[np.int16]]  # by id; "" = all parcels
    features: dict[str, list[float]]
    scale: float  # stored value of reflectance 1
    pixel: float
    least: int

    def __len__(self) -> int:
        return -(-len(self.ids) // TOGETHER)

    def read(self, index: int) -> Found:
        """Decode and check the parcels of one part; raises DataError."""
        counts: Counter[str] = Counter()
        parcels = []
        for name in self.ids[index * TOGETHER : (index + 1) * TOGETHER]:
            counts["read"] += 1
            parcel = self._parcel(name)
            if len(parcel.pixels) < self.least:
                counts["slivers"] += 1
            elif not (parcel.pixels != NODATA).all(axis=2).any():
                counts["never_seen"] += 1
            else:
                counts["unlabelled"] += parcel.crop == VOID
                parcels.append(parcel)
        return Found(parcels, counts)

    def _parcel(self, name: str) -> Parcel:
        file = self.root / "DATA" / f"{name}.npy"
        days = self.days.get(name, self.days.get(""))
        pixels = stored(load_array(file), file, len(self.legend.bands), self.scale)
        if days is None or len(days) != len(pixels[0]):
            found = "no dates" if days is None else f"{len(days)} dates"
            raise DataError(
                f"{file}: {pixels.shape[1]} dates of pixels, but {found} in {self.root / 'META/dates.json'}: images "
                "and dates are not of the same release, fetch both again"
            )
        order = np.argsort(days, kind="stable")
        return Parcel(
            name=name,
            patch="",
            fold=self.folds[name],
            split="",
            crop=self.crops.get(name, VOID),
            pixels=np.ascontiguousarray(pixels[:, order]),
            days=days[order],
            geometry=np.array(self.features.get(name, []), np.float32),
            area=len(pixels) * self.pixel**2,
            positions=np.full((len(pixels), 2), -1, np.int32),
            x=np.nan,
            y=np.nan,
            crs=None,
            cut=False,
        )


def stored(array: NDArray, file: Path, bands: int, scale: float) -> NDArray[np.int16]:
    """t c s as in the file -> s t c: reflectance x 10000, NODATA where a pixel was not seen.

    Raises:
        DataError: not such an array.
    """
    if array.ndim != 3 or array.dtype.kind not in "iuf" or 0 in array.shape or array.shape[1] != bands:
        raise DataError(f"{file} holds {array.dtype} {array.shape}, not (dates, {bands} bands, pixels): fetch it again")
    values = array.transpose(2, 0, 1).astype(np.float64)
    unseen = (values == 0).all(axis=2) | ~(np.isfinite(values) & (values != NODATA)).all(axis=2)
    values = np.clip(np.rint(np.where(unseen[..., None], 0, values) * (10000 / scale)), NODATA + 1, BRIGHTEST)
    return np.where(unseen[..., None], NODATA, values).astype(np.int16)


def open_psetae(root: Path, source: PsetaeSource, least: int, dataset: str) -> PsetaeParcels:
    """Read the tables under `root` and see that every parcel has its file.

    Raises:
        DataError: nothing of the kind there, missing files, or tables that are not what the layout promises.
    """
    if not (root / "META").is_dir() or not (root / "DATA").is_dir():
        raise DataError(f"no PSE-TAE layout under {root}: looked for DATA and META; mend the folder of `{dataset}`")
    ids = sorted((path.stem for path in (root / "DATA").glob("*.npy")), key=lambda name: (len(name), name))
    if not ids:
        raise DataError(f"{root / 'DATA'} holds no .npy files: fetch the parcels again")
    crops, names = _crops(root / "META" / "labels.json", source, dataset)
    features, geometry = _features(root / "META" / "geomfeat.json", ids)
    if len(BANDS) != len(source.bands):
        bands, colour = tuple(source.bands), (0, 0, 0)
    else:
        bands, colour = tuple(source.bands), TRUE_COLOUR
    classes = tuple(CropClass(name, COLOURS[place % len(COLOURS)]) for place, name in enumerate(names))
    return PsetaeParcels(
        root=root,
        legend=Legend(bands, colour, classes, background=False),
        geometry=geometry,
        ids=tuple(ids),
        crops=crops,
        folds=deal_out(ids, crops),
        days=_days(root / "META" / "dates.json"),
        features=features,
        scale=source.scale,
        pixel=source.pixel,
        least=least,
    )


def deal_out(ids: list[str], crops: dict[str, int]) -> dict[str, int]:
    """id -> fold 1..5: the parcels of each class shuffled by a fixed seed and dealt out in turn."""
    order = np.random.default_rng(0).permutation(len(ids))
    by_class = sorted(order.tolist(), key=lambda place: crops.get(ids[place], VOID))  # stable: shuffled within a class
    return {ids[place]: turn % FOLDS + 1 for turn, place in enumerate(by_class)}


def _crops(path: Path, source: PsetaeSource, dataset: str) -> tuple[dict[str, int], list[str]]:
    """id -> 1..K, and the classes' names; parcels of other classes than `classes` have no label."""
    tables = read_json(path)
    if not isinstance(tables, dict) or not isinstance(tables.get(source.labels), dict):
        known = sorted(tables) if isinstance(tables, dict) else type(tables).__name__
        raise DataError(f"{path} has no nomenclature {source.labels!r}, only {known}: mend `{dataset}.source.labels`")
    try:
        numbers = {str(name): int(number) for name, number in tables[source.labels].items() if number is not None}
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {source.labels} holds a class that is no whole number ({error}): mend it") from None
    wanted = sorted(set(numbers.values())) if source.classes == "all" else list(source.classes)
    if not 0 < len(wanted) < VOID or len(set(wanted)) != len(wanted):
        raise DataError(f"{path}: {len(wanted)} classes {wanted[:9]}: give each of 1 to 254 once in source.classes")
    place = {number: at for at, number in enumerate(wanted, 1)}
    return {name: place[number] for name, number in numbers.items() if number in place}, [str(n) for n in wanted]


def _features(path: Path, ids: list[str]) -> tuple[dict[str, list[float]], tuple[str, ...]]:
    """id -> its numbers, and their names (none without the file)."""
    if not path.exists():
        return {}, ()
    table = read_json(path)
    try:
        found = {name: [float(number) for number in table[name]] for name in ids}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} has no list of numbers for every parcel ({error!r}): fetch it again") from None
    lengths = {len(numbers) for numbers in found.values()}
    if len(lengths) != 1 or not all(np.isfinite(numbers).all() for numbers in found.values()):
        raise DataError(f"{path} has {sorted(lengths)} features a parcel, or one that is not finite: fetch it again")
    return found, tuple(f"feature_{number}" for number in range(1, lengths.pop() + 1))


def _days(path: Path) -> dict[str, NDArray[np.int16]]:
    """Days since the turn of the year in which the first date of all lies, by id ("" = all parcels)."""
    table = read_json(path)
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path} holds no dates: fetch it again")
    per_parcel = all(isinstance(value, list) for value in table.values())
    try:
        if per_parcel:
            dates = {str(name): [_date(text) for text in value] for name, value in table.items()}
        else:
            dates = {"": [_date(table[key]) for key in sorted(table, key=int)]}
        start = date(min(min(days) for days in dates.values() if days).year, 1, 1).toordinal() - 1
        found = {name: np.array([day.toordinal() - start for day in days]) for name, days in dates.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} holds something that is no date ({error}): mend it") from None
    if any(len(days) and days.max() > np.iinfo(np.int16).max for days in found.values()):
        raise DataError(f"{path} spans more than 89 years: mend the date that is wrong")
    return {name: days.astype(np.int16) for name, days in found.items()}


def _date(value: Any) -> date:
    """20190112, "20190112" or "2019-01-12"."""
    return date.fromisoformat(str(value))
