"""Writing Germany tiles and their lists in the published layout."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from einops import repeat
from numpy.typing import NDArray

from cluemap.data.formats.mtlcc import CLASSES, UNKNOWN
from cluemap.data.formats.mtlcc_tile import FILL
from cluemap.data.formats.tfrecord import write_example

PADDED = 52  # dates of a file, as published for 2017


def write_tile(
    path: Path, x10: NDArray, x20: NDArray, x60: NDArray, doy: NDArray, year: NDArray, labels: NDArray,
    padded: int = PADDED,
) -> None:  # fmt: skip
    """x t h w c at each resolution, doy and year t, labels h w -> one .tfrecord.gz, filled up to `padded` dates."""
    if len(doy) > padded:
        raise ValueError(f"{path}: {len(doy)} dates do not fit into {padded}")
    arrays = {"x10": x10, "x20": x20, "x60": x60, "labels": repeat(labels, "h w -> t h w", t=len(doy))}
    features: dict[str, bytes | tuple[int, ...]] = {}
    for name, values in arrays.items():
        full = _filled(values, padded)
        features |= {f"{name}/data": full.tobytes(), f"{name}/shape": full.shape}
    for name, values in {"doy": doy, "year": year}.items():
        features[f"dates/{name}"] = _filled(values, padded).tobytes()
    write_example(path, features | {"dates/shape": (padded,)})


def write_lists(
    home: Path, corners: Mapping[str, tuple[float, float]], splits: Mapping[str, Iterable[str]], srid: int = 32632
) -> None:
    """classes.txt, geotransforms.csv and tileids/<name>.tileids beside the tiles."""
    names = {UNKNOWN: "unknown"} | {number: crop.name for number, crop in CLASSES.items()}
    (home / "classes.txt").write_text("".join(f"{number}|{name}\n" for number, name in names.items()), "utf-8")
    rows = (f"{tile},{x},10,0,{y},0,-10,{srid}\n" for tile, (x, y) in corners.items())
    (home / "geotransforms.csv").write_text("".join(rows), "utf-8")
    (home / "tileids").mkdir(exist_ok=True)
    for name, tiles in splits.items():
        (home / "tileids" / f"{name}.tileids").write_text("".join(f"{tile}\n" for tile in tiles), "utf-8")


def _filled(values: NDArray, padded: int) -> NDArray:
    """t ... -> padded ..., little-endian int64."""
    full = np.full((padded, *values.shape[1:]), FILL, "<i8")
    full[: len(values)] = values
    return full
