"""How often do the 95 % confidence intervals of src/estimate_area.py hold the true hectares? Simulated samples.

The land is made by the demo's generator; the map has errors as classifiers make them: whole fields of one crop taken
for another, noise near borders. Every sample is drawn anew and labelled with the truth. Prints one row a class:
 true and counted hectares, the mean estimate, the share of intervals that hold the truth, and the share
that would if the same margins were laid around the pixel count.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import rasterio  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

from cluemap.data.formats.pastis import CLASSES  # noqa: E402
from cluemap.data.synthetic.generator_params import STANDARD  # noqa: E402
from cluemap.data.synthetic.landscape import make_land  # noqa: E402
from cluemap.mapping.postprocessing.class_map import ClassMap, open_map  # noqa: E402
from cluemap.statistics.sample_drawing import draw_sample  # noqa: E402
from cluemap.statistics.stratified_estimates import Estimate, stratified_estimates  # noqa: E402

VOID_LABEL, VOID, PIXEL = 19, 255, 10.0


class Region(NamedTuple):
    truth: NDArray[np.uint8]  # h w, class ids, 255 = not part of the region
    fields: NDArray[np.int32]  # h w, 0 = none
    names: list[str]  # of the ids


def make_region(side: int, seed: int) -> Region:
    """Fields, woods and villages; ids are renumbered 0..K in the order of PASTIS's."""
    land = make_land(side, side, STANDARD.land, np.random.default_rng(seed))
    held = np.unique(land.labels[land.labels != VOID_LABEL])
    truth = np.full(land.labels.shape, VOID, np.uint8)
    for number, label in enumerate(held):
        truth[land.labels == label] = number
    return Region(truth, land.parcels, [CLASSES[label].name for label in held])


def make_errors(region: Region, share: float, seed: int) -> NDArray[np.uint8]:
    """A map: `share` of the fields get the next class (crops with odd ids three times as often as the others, small
    fields more easily); then 5 % of the pixels take the class of what stands near."""
    generator = np.random.default_rng(seed)
    truth = region.truth
    crops = int(truth[truth != VOID].max())
    sizes = np.bincount(region.fields.ravel())
    chance = share * 2 / (1 + sizes / np.median(sizes[sizes > 0]))
    draw = generator.random(len(sizes))
    draw[0] = 1.0  # no field
    likely = np.where(truth % 2 == 1, 1.5, 0.5) * chance[region.fields]
    found = np.where(draw[region.fields] < likely, truth % crops + 1, truth)
    noisy = generator.random(truth.shape) < 0.05
    found = np.where(noisy, np.roll(found, 3, axis=1), found)
    return np.where((truth == VOID) | (found == VOID), truth, found).astype(np.uint8)


def write(path: Path, classes: NDArray[np.uint8]) -> ClassMap:
    height, width = classes.shape
    transform = Affine(PIXEL, 0, 600_000.0, 0, -PIXEL, 5_790_240.0)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", crs="EPSG:32632",
        transform=transform, nodata=VOID, compress="deflate",
    ) as file:  # fmt: skip
        file.write(classes, 1)
    return open_map(path)


def simulate(source: ClassMap, truth: NDArray[np.uint8], samples: int, size: int) -> list[Estimate]:
    """The areas, in hectares, that every sample gives."""
    strata, classes = np.flatnonzero(source.counts), int(truth[truth != VOID].max()) + 1
    hectares = float(source.counts.sum() * source.hectares_per_pixel)
    found = []
    for seed in range(samples):
        sample = draw_sample(source, size, seed=seed)
        rows, columns = source.pixels(sample.geometry.x.to_numpy(), sample.geometry.y.to_numpy())
        mapped = sample["stratum"].to_numpy()
        stratum = np.searchsorted(strata, mapped)
        reference = truth[rows, columns].astype(np.intp)
        sizes = source.counts[strata].astype(np.float64)
        estimates = stratified_estimates(stratum, mapped, reference, sizes, classes, finite=True)
        found.append(estimates.area.scaled(hectares))
    return found


def coverage(source: ClassMap, truth: NDArray[np.uint8], found: list[Estimate]) -> pd.DataFrame:
    """One row a class of the truth."""
    classes = len(found[0].value)
    pixel = source.hectares_per_pixel
    true = np.bincount(truth[truth != VOID], minlength=classes) * pixel
    counted = source.counts[:classes] * pixel
    values, margins = (np.array([getattr(one, name) for one in found]) for name in ("value", "margin"))
    table = pd.DataFrame({
        "class": np.arange(classes), "true ha": true, "counted ha": counted, "mean estimate ha": values.mean(axis=0),
        "mean margin ha": margins.mean(axis=0), "intervals that hold": (abs(values - true) <= margins).mean(axis=0),
        "around the count": (abs(counted - true) <= margins).mean(axis=0),
    })  # fmt: skip
    return table[true > 0].reset_index(drop=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--size", type=int, default=500, help="units a sample")
    parser.add_argument("--side", type=int, default=1000, help="pixels a side of the region")
    parser.add_argument("--errors", type=float, default=0.2, help="share of fields that the map has wrong")
    given = parser.parse_args()
    region = make_region(given.side, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "map.tif", make_errors(region, given.errors, seed=1))
        table = coverage(source, region.truth, simulate(source, region.truth, given.samples, given.size))
    table["class"] = region.names
    print(f"{len(np.unique(region.fields)) - 1} fields, {given.samples} samples of {given.size} units")
    print(table.to_string(index=False, float_format="{:,.3f}".format))


if __name__ == "__main__":
    main()
