"""One Germany tile from its file, TFRecord or pickle: checked, padding dropped, 13 bands at 10 m.

Resampling: a pixel is an area and its value stands at the area's centre, so coarse pixels are nested exactly in 10 m
ones (torch's `align_corners=False`); bilinear between centres, held constant beyond the outermost; rounded half up.
All of it in whole numbers, so that the result has the same bits on every machine.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluemap.data.formats.restricted_pickle import load_pickle
from cluemap.data.formats.tfrecord import Feature, read_example
from cluemap.data.patches import NODATA
from cluemap.errors import DataError

BANDS = ("B04", "B03", "B02", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09", "B10")
TRUE_COLOUR = (0, 1, 2)
COARSER = {"x10": (1, 4), "x20": (2, 6), "x60": (6, 3)}  # group -> 10 m pixels a side of its pixel, bands
DATES = ("dates/doy", "dates/year")
MOST_DATES = 366
SATURATED = 65535  # the sensor's product is uint16, and this its mark of a saturated pixel
FILL = -1  # in padding; 0 is the product's own no-data
LARGEST = 32767  # int16: reflectance 3.28, which only saturation passes
OTHER = "not the published tile: fetch the file again"


@dataclass(frozen=True)
class Tile:
    images: NDArray[np.int16]  # t c h w, top-of-atmosphere reflectance x 10000, NODATA where not seen
    days: NDArray[np.int16]  # t, ascending within a season
    labels: NDArray[np.int64]  # h w, published ids


@dataclass(frozen=True)
class Raw:
    """An array as its file holds it, and where."""

    path: Path
    name: str
    values: NDArray
    start: int | None = (
        None  # byte offset of the first value (8 bytes each) in the decompressed stream; none in a pickle
    )

    def damage(self, what: str, index: int = 0) -> DataError:
        """-> the error to raise for `what`, found in the value at flat `index`."""
        place = "" if self.start is None else f"byte {self.start + 8 * index} of the decompressed stream: "
        return DataError(f"{self.path}: {place}{self.name} {what}: {OTHER}")


def read_tile(path: Path, side: int) -> Tile:
    """A tile of `side` x `side` pixels from a .tfrecord.gz or a .pickle.

    Raises:
        DataError: damaged, or anything that the format does not promise. Names the file and the place in it.
    """
    raw = _from_pickle(path) if path.suffix == ".pickle" else _from_tfrecord(path)
    _check_shapes(raw, side)
    order = _dates_in_order(raw["dates/doy"], raw["dates/year"])
    groups = [to_ten_metres(*_seen(raw[name], order), factor) for name, (factor, _) in COARSER.items()]
    images = np.concatenate([values for values, _ in groups], axis=1)
    missing = groups[0][1] | groups[1][1] | groups[2][1]
    if missing.any():
        images = np.where(missing[:, None], np.int16(NODATA), images)
    return Tile(images, raw["dates/doy"].values[order].astype(np.int16), _one_map(raw["labels"], order))


def _from_tfrecord(path: Path) -> dict[str, Raw]:
    features = read_example(path)
    shaped = {"x10": "x10/shape", "x20": "x20/shape", "x60": "x60/shape", "labels": "labels/shape"}
    raw = {name: _array(path, features, f"{name}/data", shape, name) for name, shape in shaped.items()}
    # `dates/shape` is in every published file, but the number of dates is what the images say.
    return raw | {name: _array(path, features, name, None, name) for name in DATES}


def _array(path: Path, features: dict[str, Feature], data: str, shape: str | None, name: str) -> Raw:
    for wanted in (data, shape) if shape else (data,):
        if wanted not in features:
            raise DataError(f"{path}: byte 0 of the decompressed stream: there is no {wanted!r}: {OTHER}")
    span = features[data].span
    if features[data].numbers is not None or len(span) % 8:
        raise span.damage(f"{data} is not a list of int64", mend=OTHER)
    sizes = features[shape].numbers if shape else (len(span) // 8,)
    if sizes is None or len(sizes) > 4 or 0 in sizes or math.prod(sizes) * 8 != len(span):
        raise span.damage(f"{data} has {len(span)} bytes, but shape {sizes}", mend=OTHER)
    return Raw(path, name, np.frombuffer(span.content, "<i8").reshape(sizes), span.start)


def _from_pickle(path: Path) -> dict[str, Raw]:
    """TSViT's form: reflectance cut down to int16, so that what passed 32767 has become negative."""
    content = load_pickle(path)
    names = {"x10": "x10", "x20": "x20", "x60": "x60", "labels": "labels", "day": DATES[0], "year": DATES[1]}
    raw = {}
    for key, name in names.items():
        values = content.get(key)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu" or values.itemsize > 8:
            found = type(values).__name__ if not isinstance(values, np.ndarray) else f"{values.dtype}"
            raise DataError(f"{path}: {key!r} is {found}, not whole numbers: {OTHER}")
        wide = values.astype(np.int64)
        if name in COARSER and values.dtype == np.int16:
            fill = (wide == FILL).all(axis=-1, keepdims=True)
            wide = np.where(fill, wide, wide & 0xFFFF)
        raw[name] = Raw(path, key, wide)
    return raw


def _check_shapes(raw: dict[str, Raw], side: int) -> None:
    count = raw["dates/doy"].values.size
    if not 1 <= count <= MOST_DATES:
        raise raw["dates/doy"].damage(f"has {count} dates, not 1..{MOST_DATES}")
    wanted: dict[str, tuple[int, ...]] = {
        name: (count, side // factor, side // factor, bands) for name, (factor, bands) in COARSER.items()
    }
    wanted |= {"labels": (count, side, side), "dates/doy": (count,), "dates/year": (count,)}
    for name, shape in wanted.items():
        if raw[name].values.shape != shape:
            raise raw[name].damage(f"has shape {raw[name].values.shape}, not {shape}")


def _dates_in_order(day: Raw, year: Raw) -> NDArray[np.intp]:
    """-> the positions of the dates that are there (day 0 and less is padding), oldest first."""
    late = np.flatnonzero(day.values > 366)
    if late.size:
        raise day.damage(f"holds day {day.values[late[0]]}", int(late[0]))
    valid = np.flatnonzero(day.values > 0)
    if not valid.size:
        raise day.damage("holds no date, padding only")
    return valid[np.lexsort((day.values[valid], year.values[valid]))]


def _one_map(labels: Raw, order: NDArray[np.intp]) -> NDArray[np.int64]:
    """-> h w: the map that every date repeats."""
    first = labels.values[order[0]]
    other = np.flatnonzero((labels.values[order] != first).any(axis=(1, 2)))
    if other.size:
        date = int(order[other[0]])
        raise labels.damage(f"of date {date} are not those of date {order[0]}", date * first.size)
    return first.copy()


def _seen(raw: Raw, order: NDArray[np.intp]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """-> values t c h w within int16, and t h w: nothing seen there (all bands 0, the product's no-data, or FILL)."""
    values = raw.values[order]
    missing: NDArray[np.bool_] = np.all(values <= 0, axis=-1)
    wrong = (values > SATURATED) | (values < FILL) | ((values < 0) & ~missing[..., None])
    if wrong.any():
        date, *place = np.unravel_index(int(np.flatnonzero(wrong)[0]), wrong.shape)
        index = int(np.ravel_multi_index((int(order[date]), *place), raw.values.shape))
        raise raw.damage(f"holds {raw.values.flat[index]}, no uint16 reflectance", index)
    return np.minimum(values, LARGEST).astype(np.int32).transpose(0, 3, 1, 2), missing


def to_ten_metres(
    values: NDArray[np.int32], missing: NDArray[np.bool_], factor: int
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """t c h w and t h w -> the same on a grid `factor` times as fine; missing wherever a missing pixel has a part."""
    if factor == 1:
        return values.astype(np.int16), missing
    whole = 4 * factor**2
    fine = (_weighted(values, factor) + whole // 2) // whole
    spread = _weighted(missing.astype(np.int32), factor) > 0 if missing.any() else np.zeros((), np.bool_)
    return fine.astype(np.int16), spread


def _weighted(values: NDArray[np.int32], factor: int) -> NDArray[np.int32]:
    """... h w -> ... (h factor) (w factor): bilinear, times 4 factor^2. Exact: float32 holds 32767 * 144 whole."""
    rows, columns = _weights(values.shape[-2], factor), _weights(values.shape[-1], factor)
    return (rows @ values.astype(np.float32) @ columns.T).astype(np.int32)


@cache
def _weights(size: int, factor: int) -> NDArray[np.float32]:
    """-> (size factor) size: whole-numbered weights of the two nearest coarse pixels; each row sums to 2 factor."""
    place = 2 * np.arange(size * factor) + 1 - factor  # of a fine centre from the first coarse one, in 1 / (2 factor)
    low, share = np.divmod(place, 2 * factor)
    weights = np.zeros((size * factor, size), np.float32)
    for neighbour, weight in ((low, 2 * factor - share), (low + 1, share)):
        np.add.at(weights, (np.arange(size * factor), neighbour.clip(0, size - 1)), weight)
    return weights
