"""Writing the common form of parcels: every array grows at its end, and the folder appears whole or not at all.

pixels.npy     int16 (n, c)   parcel after parcel, pixel after pixel, date after date
days.npy       int16 (n)      each parcel's dates
positions.npy  int32 (n, 2)   row and column of each pixel in its patch
moments.npy    float64 (N, 3, c)  of each parcel and band: pixels seen, their sum, the sum of their squares
parcels.parquet, card.json
"""

from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluemap.data.appendable_arrays import GrowingArray
from cluemap.data.parcels.parcel import Parcel
from cluemap.data.patches import NODATA, Legend
from cluemap.files import write_json

OWN = ("name", "patch", "fold", "split", "crop", "area", "x", "y", "crs", "cut")  # columns that a Parcel has
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "patch", "split", "crs")),
        *((name, pa.int32()) for name in ("fold", "crop", "pixels", "dates")),
        *((name, pa.int64()) for name in ("start", "day_start", "position_start")),
        *((name, pa.float64()) for name in ("area", "x", "y")),
        ("cut", pa.bool_()),
        ("geometry", pa.list_(pa.float32())),
    ]
)


class ParcelWriter:
    """Takes parcels one by one. Memory: the table's rows, and nothing of the pixels."""

    def __init__(self, folder: Path, legend: Legend, geometry: tuple[str, ...]) -> None:
        self.folder, self.legend, self.geometry = folder, legend, geometry
        self.rows: list[dict[str, Any]] = []
        bands = len(legend.bands)
        self._files = {
            "pixels": GrowingArray(folder / "pixels.npy", np.int16, (bands,)),
            "days": GrowingArray(folder / "days.npy", np.int16),
            "positions": GrowingArray(folder / "positions.npy", np.int32, (2,)),
            "moments": GrowingArray(folder / "moments.npy", np.float64, (3, bands)),
        }

    def add(self, parcel: Parcel) -> None:
        """Append one parcel."""
        pixels, dates, bands = parcel.pixels.shape
        places = {
            "pixels": pixels,
            "dates": dates,
            "start": self._files["pixels"].append(parcel.pixels.reshape(-1, bands)),
            "day_start": self._files["days"].append(parcel.days),
            "position_start": self._files["positions"].append(parcel.positions),
        }
        self._files["moments"].append(moments(parcel.pixels)[None])
        own = {name: getattr(parcel, name) for name in OWN}
        self.rows.append({**own, **places, "geometry": parcel.geometry.tolist()})

    def finish(self, dataset: str, counts: dict[str, int]) -> dict[str, Any]:
        """Close the arrays, write table and card; returns the card's content."""
        for file in self._files.values():
            file.close()
        table = pa.Table.from_pylist(self.rows, schema=SCHEMA)
        pq.write_table(table, self.folder / "parcels.parquet")
        card: dict[str, Any] = {
            "dataset": dataset,
            "legend": asdict(self.legend),
            "geometry": list(self.geometry),
            "background": any(row["crop"] == 0 for row in self.rows),
            "counts": counts,
        }
        whole = blake2b(digest_size=16)
        for name, file in sorted(self._files.items()):
            whole.update(f"{name} {file.digest.hexdigest()}\n".encode())
        whole.update(f"{table.to_pydict()!r}{card!r}".encode())
        write_json(self.folder / "card.json", {**card, "digest": whole.hexdigest()})
        return card

    def discard(self) -> None:
        for file in self._files.values():
            file.discard()


def moments(pixels: NDArray[np.int16]) -> NDArray[np.float64]:
    """s t c -> 3 c: pixels seen, their sum, the sum of their squares; whole numbers, so exact in any order."""
    values = pixels.reshape(-1, pixels.shape[2])
    seen = values[(values != NODATA).all(axis=1)].astype(np.float64)
    return np.stack([np.full(values.shape[1], float(len(seen))), seen.sum(axis=0), (seen**2).sum(axis=0)])
