"""The common form of parcels on disk, opened: memory-mapped pixels, and the table that says whose they are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cluemap.data.image_labels import split_of
from cluemap.data.patches import SPLITS, VOID, Legend
from cluemap.data.series_features import median_span
from cluemap.data.windows import read_parquet
from cluemap.errors import DataError
from cluemap.files import open_array, read_json

MEND = "run `python src/prepare_parcels.py` again"
COLUMNS = (
    *("name", "patch", "fold", "split", "crop", "pixels", "dates", "start", "day_start", "position_start"),
    *("area", "x", "y", "crs", "cut", "geometry"),
)


@dataclass(frozen=True, eq=False)
class ParcelCard:
    """What card.json says of a data set's parcels."""

    dataset: str
    legend: Legend
    geometry: tuple[str, ...]  # names of the geometric features
    background: bool  # whether id 0 is a class of parcels too
    counts: dict[str, int]
    digest: str

    @property
    def first(self) -> int:
        """The lowest id that a parcel can have."""
        return 0 if self.background else 1

    @property
    def names(self) -> list[str]:
        """Of the classes, in the order of their ids."""
        return ["background"] * self.background + list(self.legend.class_names)


@dataclass(frozen=True, eq=False, repr=False)
class Parcels:
    """All parcels of a data set; parcel i is row i of `table`."""

    folder: Path
    card: ParcelCard
    table: pd.DataFrame
    pixels: NDArray[np.int64]  # N, how many each has
    dates: NDArray[np.int64]  # N, length of each series
    geometry: NDArray[np.float32]  # N g
    _start: NDArray[np.int64]
    _day_start: NDArray[np.int64]
    _position_start: NDArray[np.int64]
    _values: NDArray[np.int16]
    _days: NDArray[np.int16]
    _positions: NDArray[np.int32]
    _moments: NDArray[np.float64]

    @classmethod
    def open(cls, folder: Path | str) -> "Parcels":
        """Open `out/<data set>/prepare_parcels/parcels`.

        Raises:
            DataError: something is missing, damaged, or of another size than the table says.
        """
        folder = Path(folder)
        card = _read_card(folder / "card.json")
        table = _read_table(folder / "parcels.parquet", card)
        column = {
            name: table[name].to_numpy(np.int64) for name in ("pixels", "dates", "start", "day_start", "position_start")
        }
        bands = len(card.legend.bands)
        rows = int((column["pixels"] * column["dates"]).sum())
        return cls(
            folder=folder,
            card=card,
            table=table,
            pixels=column["pixels"],
            dates=column["dates"],
            geometry=np.stack(table["geometry"].to_list()).astype(np.float32),
            _start=column["start"],
            _day_start=column["day_start"],
            _position_start=column["position_start"],
            _values=open_array(folder / "pixels.npy", np.int16, (rows, bands), MEND),
            _days=open_array(folder / "days.npy", np.int16, (int(column["dates"].sum()),), MEND),
            _positions=open_array(folder / "positions.npy", np.int32, (int(column["pixels"].sum()), 2), MEND),
            _moments=open_array(folder / "moments.npy", np.float64, (len(table), 3, bands), MEND),
        )

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"Parcels({self.folder}, {len(self)})"

    def series(self, index: int) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """pixels (s t c, a view of the file), days (t)."""
        pixels, dates, start = self.pixels[index], self.dates[index], self._start[index]
        values = self._values[start : start + pixels * dates]
        first = self._day_start[index]
        return values.reshape(pixels, dates, -1), self._days[first : first + dates]

    def positions(self, index: int) -> NDArray[np.int32]:
        """s 2: row and column of each pixel in the patch of the parcel."""
        first = self._position_start[index]
        return self._positions[first : first + self.pixels[index]]

    def spans(self, indexes: NDArray[np.int64]) -> NDArray[np.int64]:
        """n 2: the first and last day of each series."""
        first = self._day_start[indexes]
        return np.stack([self._days[first], self._days[first + self.dates[indexes] - 1]], axis=1).astype(np.int64)

    def middle_day(self, indexes: NDArray[np.int64]) -> float:
        """Of the season of these parcels: networks move every other series to its year."""
        return sum(median_span(self.spans(indexes))) / 2

    def splits(self, official: int) -> NDArray[np.object_]:
        """N: train | validation | test, by fold in the official split `official` (1..5), or as the data set says."""
        own = self.table["split"].to_numpy(object)
        folds = self.table["fold"].to_numpy(np.int64)
        return np.array(
            [split or split_of(fold, official) for split, fold in zip(own, folds.tolist(), strict=True)], object
        )

    def truth(self) -> NDArray[np.uint8]:
        """N: the true class of every parcel, VOID where it is not known. The weak route reads it for scores alone."""
        return self.table["crop"].to_numpy(np.uint8)

    def statistics(self, indexes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation (c each) of the pixels of these parcels that were seen; a band that never varies
        gets 1."""
        count, total, squares = self._moments[np.sort(indexes)].sum(axis=0)
        mean = total / np.maximum(count, 1)
        variance = squares / np.maximum(count, 1) - mean**2
        return mean.astype(np.float32), np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1).astype(np.float32)


def _read_card(path: Path) -> ParcelCard:
    content = read_json(path)
    try:
        return ParcelCard(
            dataset=content["dataset"],
            legend=Legend.from_json(content["legend"]),
            geometry=tuple(content["geometry"]),
            background=bool(content["background"]),
            counts={str(name): int(count) for name, count in content["counts"].items()},
            digest=content["digest"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a card of this version ({error!r}): {MEND}") from None


def _read_table(path: Path, card: ParcelCard) -> pd.DataFrame:
    table = read_parquet(path, COLUMNS, MEND)
    crops, highest = table["crop"], len(card.legend.classes)
    if not len(table) or not ((crops == VOID) | ((crops >= card.first) & (crops <= highest))).all():
        raise DataError(f"{path} holds no parcels of the classes in card.json: {MEND}")
    if not table["split"].isin(["", *SPLITS]).all():
        raise DataError(f"{path} holds splits other than {SPLITS}: {MEND}")
    return table
