"""Does the demo look like PASTIS? Prints Markdown tables of the demo beside real PASTIS24 windows (pickles).

Clear = a pixel and date whose blue reflectance is under 0.18 (and over -0.25); NDVI is the median over clear pixels.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
from cluemap.data.formats.restricted_pickle import load_pickle  # noqa: E402

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
CROPS = {2: "wheat", 3: "corn", 5: "rapeseed", 1: "meadow"}
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
WINDOW, CLOUD, NODATA = 24, 1800, -9000


@dataclass(frozen=True)
class Window:
    images: NDArray[np.float64]  # t c h w
    months: NDArray[np.int64]  # t, 0..11
    labels: NDArray[np.uint8]  # h w

    def clear(self) -> NDArray[np.bool_]:
        """-> t h w"""
        return (self.images[:, 0] < CLOUD) & (self.images[:, 0] > -2500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, required=True, help="folder of PASTIS24 pickles")
    parser.add_argument("--demo", type=Path, default=ROOT / "data" / "demo")
    parser.add_argument("--norm", type=Path, help="the published NORM_S2_patch.json, for a column over all of PASTIS")
    given = parser.parse_args()
    real, demo = list(real_windows(given.real)), list(demo_windows(given.demo))
    if not real:
        parser.error(f"no *.pickle in {given.real}")
    rows = [("windows", str(len(real)), str(len(demo))), *statistics(real, demo)]
    norms = published(given.norm) if given.norm else {}
    print(f"| | real | demo |{' all of PASTIS |' if norms else ''}\n|---|---|---|{'---|' if norms else ''}")
    for name, one, other in rows:
        print(f"| {name} | {one} | {other} |{f' {norms.get(name, str())} |' if norms else ''}")
    print(f"\n| NDVI | {' | '.join(MONTHS)} |\n|---{'|---' * 12}|")
    for crop, name in CROPS.items():
        for whose, windows in (("real", real), ("demo", demo)):
            course = [f"{value:.2f}" if np.isfinite(value) else "" for value in _ndvi(windows, crop)]
            print(f"| {name}, {whose} | {' | '.join(course)} |")


def real_windows(folder: Path) -> Iterator[Window]:
    for path in sorted(folder.glob("*.pickle")):
        content = load_pickle(path)
        labels = content["labels"] if content["labels"].ndim == 2 else content["labels"][0]
        dates = np.datetime64("2019-01-01") + (np.asarray(content["doy"]).astype(int) - 1).clip(0, 364)
        yield Window(content["img"].astype(np.float64), dates.astype("datetime64[M]").astype(int) % 12, labels)


def demo_windows(folder: Path) -> Iterator[Window]:
    for feature in json.loads((folder / "metadata.geojson").read_text())["features"]:
        number = feature["properties"]["ID_PATCH"]
        months = np.array([date // 100 % 100 - 1 for date in feature["properties"]["dates-S2"].values()])
        images = np.load(folder / f"DATA_S2/S2_{number}.npy", mmap_mode="r")
        labels = np.load(folder / f"ANNOTATIONS/TARGET_{number}.npy")[0]
        for row in range(0, labels.shape[0] - WINDOW + 1, WINDOW):
            for column in range(0, labels.shape[1] - WINDOW + 1, WINDOW):
                part = slice(row, row + WINDOW), slice(column, column + WINDOW)
                yield Window(images[:, :, *part].astype(np.float64), months, labels[part])


def published(file: Path) -> dict[str, str]:
    folds = json.loads(file.read_text()).values()
    mean, deviation = (np.mean([fold[key] for fold in folds], axis=0) for key in ("mean", "std"))
    columns = zip(BANDS, mean, deviation, strict=True)
    return {f"{band}, all dates: mean, deviation": f"{m:.0f}, {s:.0f}" for band, m, s in columns}


def statistics(*sets: list[Window]) -> Iterator[tuple[str, ...]]:
    """-> rows of the table: name, then one value for each set."""
    for what in ("all dates", "clear pixels"):
        moments = [_moments(s, what == "clear pixels") for s in sets]
        for number, band in enumerate(BANDS):
            yield f"{band}, {what}: mean, deviation", *(f"{m[number]:.0f}, {s[number]:.0f}" for m, s in moments)
    for number, band in ((2, "B04"), (6, "B08"), (8, "B11")):
        for lag in (1, 2, 4):
            name = f"{band}: correlation of clear pixels {lag} apart"
            yield name, *(f"{np.mean([r for w in s for r in _correlations(w, number, lag)]):.2f}" for s in sets)
    yield "cloud: share of pixels and dates", *(f"{np.mean([_cloudy(w).mean() for w in s]):.2f}" for s in sets)
    yield (
        "cloud: share of dates over 90 % covered",
        *(f"{np.mean([(_cloudy(w).mean(axis=(1, 2)) > 0.9).mean() for w in s]):.2f}" for s in sets),
    )
    yield "no data: share", *(f"{np.mean([(w.images[:, 0] <= NODATA).mean() for w in s]):.3f}" for s in sets)
    yield "dates a window", *(f"{np.mean([len(w.months) for w in s]):.0f}" for s in sets)
    yield "crops a window", *(f"{np.mean([len(_present(w)) for w in s]):.1f}" for s in sets)


def _moments(windows: list[Window], clear: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    count, total, squares = 0, np.zeros(len(BANDS)), np.zeros(len(BANDS))
    for window in windows:
        chosen = window.clear() if clear else window.images[:, 0] > NODATA
        values = window.images.transpose(0, 2, 3, 1)[chosen]
        count, total, squares = count + len(values), total + values.sum(0), squares + (values**2).sum(0)
    mean = total / count
    return mean, np.sqrt(squares / count - mean**2)


def _ndvi(windows: list[Window], crop: int) -> list[float]:
    values: list[list[float]] = [[] for _ in MONTHS]
    for window in windows:
        red, near = window.images[:, 2], window.images[:, 6]
        chosen = window.clear() & (window.labels == crop) & (near + red > 500)
        for row, month in enumerate(window.months):
            values[month].extend(((near - red)[row] / np.maximum(near + red, 1)[row])[chosen[row]])
    return [float(np.median(month)) if len(month) > 30 else float("nan") for month in values]


def _correlations(window: Window, band: int, lag: int) -> Iterator[float]:
    for image, clear in zip(window.images[:, band], window.clear(), strict=True):
        if clear.all() and image.std() > 0:
            yield float(np.corrcoef(image[:, :-lag].ravel(), image[:, lag:].ravel())[0, 1])


def _cloudy(window: Window) -> NDArray[np.bool_]:
    return window.images[:, 0] >= CLOUD


def _present(window: Window) -> list[int]:
    found, counts = np.unique(window.labels, return_counts=True)
    return [k for k, n in zip(found, counts, strict=True) if 0 < k < 19 and n >= 6]


if __name__ == "__main__":
    main()
