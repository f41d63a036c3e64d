"""The common form on disk, opened: windows of any data set, memory-mapped (format: README.md beside this file)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cluemap.data.patches import SPLITS, Legend
from cluemap.data.windowing import DateChoice
from cluemap.errors import DataError
from cluemap.files import open_array, read_json

MEND = "run `dvc repro` (stage prepare) again"
UNLABELLED = "unlabelled"  # the split of training windows whose labels are hidden
COLUMNS = (
    *("name", "patch", "fold", "split", "tile", "row", "column", "x", "y", "crs", "pixel"),
    *("dates", "shard", "start", "day_start", "mask_row", "labels"),
)


@dataclass(frozen=True, eq=False)
class Card:
    """What card.json says of a prepared data set."""

    dataset: str
    legend: Legend
    size: int  # pixels a side of a window
    mean: NDArray[np.float32]  # c, over training pixels that were seen
    std: NDArray[np.float32]  # c
    counts: dict[str, int]  # windows per split
    max_dates: int
    digest: str  # of all arrays, the table and this card
    dates: DateChoice


@dataclass(frozen=True, eq=False, repr=False)
class Windows:
    """All windows of a prepared data set; window i is row i of `table`."""

    folder: Path
    card: Card
    table: pd.DataFrame
    image_labels: NDArray[np.bool_]  # N k
    dates: NDArray[np.int64]  # N, length of each series
    mask_row: NDArray[np.int64]  # N, row of the window in masks_<split>.npy
    _split: NDArray[np.object_]
    _shard: NDArray[np.int64]
    _start: NDArray[np.int64]
    _day_start: NDArray[np.int64]
    _shards: tuple[NDArray[np.int16], ...]
    _days: NDArray[np.int16]
    _valid: NDArray[np.bool_]
    known: NDArray[np.bool_] | None = None  # N k, whether a class is known to be there or not; None: all are
    part: str = ""  # names the windows that kept their labels, where others' are hidden
    _kept: NDArray[np.int64] | None = None  # rows of masks_train.npy that are known; None: all

    @property
    def possible(self) -> NDArray[np.bool_]:
        """N k: the classes that a window holds or may hold."""
        return self.image_labels if self.known is None else self.image_labels | ~self.known

    @classmethod
    def open(cls, folder: Path | str) -> "Windows":
        """Open `out/<data set>/prepare`. The mask files are looked at (size) but not opened: see `masks`.

        Raises:
            DataError: something is missing, damaged, or of another size than the card and the table say.
        """
        folder = Path(folder)
        card = _read_card(folder / "card.json")
        table = _read_table(folder / "windows.parquet", card)
        column = {name: table[name].to_numpy(np.int64) for name in ("dates", "shard", "start", "day_start", "mask_row")}
        for split in SPLITS:
            _check_bytes(folder / f"masks_{split}.npy", card.counts[split] * card.size**2)
        total = int(column["dates"].sum())
        found = cls(
            folder=folder,
            card=card,
            table=table,
            image_labels=np.stack(table["labels"].to_list()).astype(bool),
            dates=column["dates"],
            mask_row=column["mask_row"],
            _split=table["split"].to_numpy(object),
            _shard=column["shard"],
            _start=column["start"],
            _day_start=column["day_start"],
            _shards=_open_shards(folder, card, column["shard"], column["start"] + column["dates"]),
            _days=open_array(folder / "days.npy", np.int16, (total,), MEND),
            _valid=open_array(folder / "valid.npy", np.bool_, (total,), MEND),
            known=np.stack(table["known"].to_list()).astype(bool) if "known" in table else None,
        )
        bare = found._bare()
        return found.hiding(bare, image_labels=True) if len(bare) else found

    def _bare(self) -> NDArray[np.int64]:
        """The training windows of which nothing is known (labels.keep_unlabelled in scene.yaml)."""
        train = self.indexes("train")
        return train[:0] if self.known is None else train[~self.known[train].any(axis=1)]

    def __len__(self) -> int:
        return len(self.dates)

    def __repr__(self) -> str:
        return f"Windows({self.folder}, {self.card.counts})"

    def indexes(self, split: str) -> NDArray[np.int64]:
        """The windows of a split, in the row order of its masks."""
        if split not in (*SPLITS, UNLABELLED):
            raise ValueError(f"unknown split {split!r}: splits are {SPLITS}, {UNLABELLED}")
        return np.flatnonzero(self._split == split)

    def split_of(self, indexes: NDArray[np.int64]) -> NDArray[np.object_]:
        """The split of each window asked for."""
        return self._split[indexes]

    def series(self, index: int) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.bool_]]:
        """images (t c h w, a view of the file), days (t), valid (t; false where the date has no data at all)."""
        length, start, first = self.dates[index], self._start[index], self._day_start[index]
        return (
            self._shards[self._shard[index]][start : start + length],
            self._days[first : first + length],
            self._valid[first : first + length],
        )

    def masks(self, split: str) -> NDArray[np.uint8]:
        """n h w, rows as `indexes(split)`. The only place that opens masks_<split>.npy: training never asks for it."""
        kept = self._kept if split == "train" else None
        hidden = 0 if kept is None else len(self.indexes(UNLABELLED))
        shape = (len(self.indexes(split)) + hidden, self.card.size, self.card.size)
        held = open_array(self.folder / f"masks_{split}.npy", np.uint8, shape, MEND)
        return held if kept is None else held[kept]

    def hiding(self, hidden: NDArray[np.int64], image_labels: bool) -> "Windows":
        """The same windows, where these of the training split have no masks, nor image labels if `image_labels`.

        They are no training windows then, but those of the split UNLABELLED. Without image labels no stage's outputs
        are the same any more, so the digest is another one.

        Raises:
            DataError: no labelled training window would be left.
        """
        split, row, labels, known = self._split.copy(), self.mask_row.copy(), self.image_labels, self.known
        split[hidden], row[hidden] = UNLABELLED, -1
        train = np.flatnonzero(split == "train")
        if not len(train):
            raise DataError(f"no training window of {self.folder} has labels: keep some (params.yaml, block labelled)")
        rows, row[train] = self.mask_row[train], np.arange(len(train))
        kept = rows if self._kept is None else self._kept[rows]
        part = blake2b("\n".join(self.table["name"].iloc[train]).encode(), digest_size=8).hexdigest()
        card = replace(self.card, counts={**self.card.counts, "train": len(train)})
        if image_labels:
            labels, card = labels.copy(), replace(card, digest=f"{card.digest}-{part}")
            known = np.ones_like(labels) if known is None else known.copy()
            labels[hidden], known[hidden] = False, False
        hiding = replace(self, card=card, mask_row=row, _split=split, _kept=kept, part=part)
        return replace(hiding, image_labels=labels, known=known)


def read_parquet(path: Path, columns: Iterable[str], mend: str) -> pd.DataFrame:
    """A table of a prepared data set; `mend` ends each error.

    Raises:
        DataError: missing, damaged, or without one of the columns.
    """
    if not path.exists():
        raise DataError(f"{path} is missing: {mend}")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise DataError(f"{path} cannot be read ({error}): {mend}") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}: {mend}")
    return table


def _read_card(path: Path) -> Card:
    content = read_json(path)
    try:
        return Card(
            dataset=content["dataset"],
            legend=Legend.from_json(content["legend"]),
            size=int(content["window"]),
            mean=np.array(content["statistics"]["mean"], np.float32),
            std=np.array(content["statistics"]["std"], np.float32),
            counts={split: int(content["counts"][split]) for split in SPLITS},
            max_dates=int(content["max_dates"]),
            digest=content["digest"],
            dates=DateChoice(**content.get("dates", {"most": int(content["max_dates"])})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a card of this version ({error!r}): {MEND}") from None


def _read_table(path: Path, card: Card) -> pd.DataFrame:
    table = read_parquet(path, COLUMNS, MEND)
    counts = {split: int((table["split"] == split).sum()) for split in SPLITS}
    if counts != card.counts or sum(counts.values()) != len(table):
        raise DataError(f"{path} holds {counts} windows, card.json says {card.counts}: {MEND}")
    return table


def _open_shards(folder: Path, card: Card, shard: NDArray, end: NDArray) -> tuple[NDArray[np.int16], ...]:
    row = (len(card.legend.bands), card.size, card.size)
    return tuple(
        open_array(folder / f"images_{number:04d}.npy", np.int16, (int(end[shard == number].max()), *row), MEND)
        for number in range(int(shard.max()) + 1)
    )


def _check_bytes(path: Path, least: int) -> None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {MEND}") from None
    if found < least:
        raise DataError(f"{path} holds {found} bytes, the table wants at least {least}: {MEND}")
