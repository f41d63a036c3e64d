"""Writing the common form (README.md beside this file) window by window, in one pass."""

from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from einops import reduce
from numpy.typing import NDArray

from cluemap.data.appendable_arrays import Extent, GrowingArray
from cluemap.data.image_labels import image_labels
from cluemap.data.patches import NODATA, SPLITS, Legend
from cluemap.data.windowing import CutWindow, DateChoice
from cluemap.errors import DataError
from cluemap.files import write_json

SHARD_BYTES = 1_000_000_000  # a shard of images is closed before it grows over this
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "patch", "split", "tile", "crs")),
        *((name, pa.int32()) for name in ("fold", "row", "column", "dates", "shard", "mask_row", "year")),
        *((name, pa.int64()) for name in ("start", "day_start")),
        *((name, pa.float64()) for name in ("x", "y", "pixel")),
        ("labels", pa.list_(pa.bool_())),
    ]
)
KNOWN = pa.field("known", pa.list_(pa.bool_()))  # a column only where something is not known
OWN = ("name", "patch", "split", "tile", "crs", "fold", "row", "column", "x", "y", "pixel", "year")  # of CutWindow


def moments(images: NDArray[np.int16]) -> NDArray[np.object_]:
    """t c h w -> 4 c: pixels seen, their sum, the sum of their squares, all pixels. Exact: whole numbers throughout,
    so that the statistics depend on no order of summing."""
    seen = images != NODATA
    values = np.where(seen, images, 0).astype(np.float64)  # sums stay far below 2 ** 53 in one window
    squares = np.einsum("tchw,tchw->c", values, values)
    sums = [reduce(part, "t c h w -> c", "sum") for part in (seen, values)]
    every = np.full(images.shape[1], images[:, 0].size)
    return np.array([[int(number) for number in row] for row in (*sums, squares, every)], object)


@dataclass(frozen=True)
class Written:
    """How far a Writer had come: all that another one needs to continue, beside the arrays."""

    files: dict[str, Extent]
    shard: int
    moments: dict[str, list[list[int]]]  # split -> 4 c
    rows: list[dict[str, Any]]  # of the table


class Writer:
    """Takes windows one by one and leaves a prepared folder. Memory: the table's rows, and nothing of the images.

    `before`: continue in a folder as far as it was written then; anything else in it is removed.

    Raises:
        DataError: a file of an unfinished folder is missing, cut short or damaged.
    """

    def __init__(self, folder: Path, legend: Legend, size: int, presence: float, before: Written | None = None) -> None:
        self.folder, self.legend, self.size, self.presence = folder, legend, size, presence
        self.rows: list[dict[str, Any]] = []
        self.moments = {split: np.zeros((4, len(legend.bands)), object) for split in SPLITS}
        self._files: dict[str, GrowingArray] = {}
        self._shard = 0
        if before:
            self._go_on(before)
        for split in SPLITS:
            self._file(f"masks_{split}.npy", np.uint8, (size, size))

    def written(self) -> Written:
        """How far this writer is. Everything up to there is on disk."""
        for file in self._files.values():
            file.sync()
        extents = {name: file.extent for name, file in self._files.items()}
        moments = {split: sums.tolist() for split, sums in self.moments.items()}
        return Written(extents, self._shard, moments, self.rows)

    def add(self, window: CutWindow, moments: NDArray[np.object_]) -> None:
        """Append one window; `moments` of its images (worked out by the caller, who may have threads)."""
        labels = window.labels
        if labels is None:
            labels = image_labels(window.mask[None], len(self.legend.classes), self.presence)[0]
        shard = self._room(len(window.images), window.images.shape[1:])
        day_start = self._file("days.npy", np.int16).append(window.days)
        self._file("valid.npy", np.bool_).append(window.valid)
        places = {
            "dates": len(window.days),
            "shard": self._shard,
            "start": shard.append(window.images),
            "day_start": day_start,
            "mask_row": self._file(f"masks_{window.split}.npy", np.uint8, window.mask.shape).append(window.mask[None]),
        }
        own = {name: getattr(window, name) for name in OWN}
        known = np.ones(len(labels), bool) if window.known is None else window.known
        self.rows.append({**own, **places, "labels": labels.tolist(), "known": known.tolist()})
        self.moments[window.split] += moments

    def finish(self, dataset: str, dates: DateChoice) -> dict[str, Any]:
        """Close the arrays, write table and card; returns the card's content."""
        self.close()
        partial = not all(all(row["known"]) for row in self.rows)
        table = pa.Table.from_pylist(self.rows, schema=SCHEMA.append(KNOWN) if partial else SCHEMA)
        pq.write_table(table, self.folder / "windows.parquet")
        mean, std = statistics(self.moments["train"])
        splits = [row["split"] for row in self.rows]
        card = {
            "dataset": dataset,
            "legend": asdict(self.legend),
            "window": self.size,
            "statistics": {"mean": mean, "std": std},
            "counts": {split: splits.count(split) for split in SPLITS},
            "max_dates": dates.most,
            **({"dates": asdict(dates)} if dates.clear else {}),
        }
        card["digest"] = self._digest(table, card)
        write_json(self.folder / "card.json", card)
        return card

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def discard(self) -> None:
        for file in self._files.values():
            file.discard()

    def _go_on(self, before: Written) -> None:
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is missing")
        for file in self.folder.iterdir():
            if file.name not in before.files:
                file.unlink()
        for name, extent in before.files.items():
            self._files[name] = GrowingArray.reopened(self.folder / name, extent)
        self.rows, self._shard = before.rows, before.shard
        self.moments = {split: np.array(sums, object) for split, sums in before.moments.items()}

    def _file(self, name: str, dtype: type, row: tuple[int, ...] = ()) -> GrowingArray:
        if name not in self._files:
            self._files[name] = GrowingArray(self.folder / name, dtype, row)
        return self._files[name]

    def _room(self, dates: int, row: tuple[int, ...]) -> GrowingArray:
        """The shard of images that takes `dates` more rows; a series never runs over two shards."""
        current = self._file(f"images_{self._shard:04d}.npy", np.int16, row)
        bytes_a_date = 2 * int(np.prod(row))
        if current.length and (current.length + dates) * bytes_a_date > SHARD_BYTES:
            current.close()
            self._shard += 1
            current = self._file(f"images_{self._shard:04d}.npy", np.int16, row)
        return current

    def _digest(self, table: pa.Table, card: dict[str, Any]) -> str:
        """Over the content of every array, the table and the card."""
        whole = blake2b(digest_size=16)
        for name in sorted(self._files):
            whole.update(f"{name} {self._files[name].digest.hexdigest()}\n".encode())
        whole.update(repr(table.to_pydict()).encode())
        whole.update(repr(card).encode())
        return whole.hexdigest()


def statistics(moments: NDArray[np.object_]) -> tuple[list[float], list[float]]:
    """moments 4 c -> mean, standard deviation (each c) of the pixels seen. A band that never varies gets 1, so that
    it normalises to 0; one that was never seen gets mean 0."""
    mean, std = [], []
    for count, total, squares, _ in moments.T:
        variance = (count * squares - total * total) / count**2 if count else 0.0
        mean.append(total / count if count else 0.0)
        std.append(float(np.sqrt(variance)) if variance > 0 else 1.0)
    return mean, std
